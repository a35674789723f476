"""Write ``metrics.jsonl`` and ``traces.jsonl``: one line per step and per traced rollout.

verl's ``file`` logger and ``trainer.rollout_data_dir`` do not serve here. Both only append, so a resumed run would hold
the steps after its checkpoint twice; and a dumped rollout is decoded text, without the tokens, query spans and credit
that the report shows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from sd_search_verl.rollout.types import Rollout
from sd_search_verl.runs.schema import METRICS_FILE, TRACES_FILE, StepMetrics, Trace


def append_metrics(folder: Path, step: int, metrics: Mapping[str, Any]) -> None:
    """Write the line of a step: its number and every metric that is a number."""
    append_lines(folder / METRICS_FILE, [StepMetrics.of(step, metrics).to_line()])


def append_traces(folder: Path, traces: Sequence[Trace]) -> None:
    """Write traces; without any, no file is made."""
    if traces:
        append_lines(folder / TRACES_FILE, [trace.to_line() for trace in traces])


def select_traced(rollouts: Sequence[Rollout], limit: int) -> list[int]:
    """Return the indices of up to ``limit`` rollouts, in whole groups."""
    groups: dict[str, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        groups.setdefault(rollout.prompt.group, []).append(index)
    chosen: list[int] = []
    for members in groups.values():
        if len(chosen) + len(members) > limit:
            break
        chosen += members
    return chosen


def append_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Append JSON objects to a file, each on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("a+b") as file:
            if file.tell() and _last_byte(file) != b"\n":
                file.write(b"\n")  # a run killed in mid-write left half a line; the next must not join it
            # A policy can write half a surrogate pair; JSON escapes keep the file readable.
            file.writelines(json.dumps(line).encode() + b"\n" for line in lines)
    except OSError as error:  # that of a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)
