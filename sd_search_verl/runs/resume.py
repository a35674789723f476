"""Make the run files end with the step that a resumed run continues from, so that each step stands in them once.

Traces of a step are written before its checkpoint. Its metrics are complete only after it, so the checkpoint carries
those known by then, and a run that was killed in between takes them from there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from sd_search_verl.files import write_text
from sd_search_verl.runs.schema import METRICS_FILE, TRACES_FILE, StepMetrics
from sd_search_verl.runs.writer import append_lines

CHECKPOINT_METRICS = "metrics.json"
"""File in a checkpoint's folder with the metrics of its step."""


def save_with_checkpoint(checkpoint: Path, step: int, metrics: Mapping[str, Any]) -> None:
    """Store a step's metrics in its checkpoint's folder."""
    line = StepMetrics.of(step, metrics).to_line()
    write_text(checkpoint / CHECKPOINT_METRICS, json.dumps(line))


def truncate_after(folder: Path, step: int, checkpoint: Path) -> list[dict[str, Any]]:
    """Drop the lines after ``step``, whose ``checkpoint`` a run continues from; returns the metrics of each step left.

    A run that starts at step 0 moves the files of an earlier one to ``*.old``, ``*.old2`` and so on.
    """
    if step == 0:
        _set_aside(folder)
        return []
    for name in (METRICS_FILE, TRACES_FILE):
        _truncate(folder / name, step)
    path, stored = folder / METRICS_FILE, checkpoint / CHECKPOINT_METRICS
    lines = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    if stored.exists() and (not lines or lines[-1]["step"] < step):
        lines.append(json.loads(stored.read_bytes()))
        append_lines(path, lines[-1:])
    return lines


def add_to_last_step(folder: Path, step: int, metrics: Mapping[str, Any]) -> None:
    """Add metrics to the last line, if it is that of ``step``, else in a line of their own; values there stay."""
    path, line = folder / METRICS_FILE, StepMetrics.of(step, metrics).to_line()
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    last = json.loads(lines[-1]) if lines else {}
    if last.get("step") != step:
        append_lines(path, [line])
    else:
        write_text(path, "".join(f"{one}\n" for one in [*lines[:-1], json.dumps(line | last)]))


def _set_aside(folder: Path) -> None:
    """Rename the files, both with the same ending; those of earlier runs keep theirs."""
    files = [folder / METRICS_FILE, folder / TRACES_FILE]
    endings = (f".old{number if number > 1 else ''}" for number in count(1))
    free = next(end for end in endings if not any(Path(f"{file}{end}").exists() for file in files))
    for file in files:
        if file.exists():
            file.replace(f"{file}{free}")


def _truncate(path: Path, step: int) -> None:
    """Keep the whole lines of steps up to ``step``."""
    if not path.exists():
        return
    new = path.with_suffix(".new")
    with path.open("rb") as lines, new.open("wb") as kept:
        for line in lines:
            if _step_of(line) <= step:
                kept.write(line)
    new.replace(path)


def _step_of(line: bytes) -> float:
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf  # half a line, left by a kill
