"""What a run leaves behind beside verl's logs: ``metrics.jsonl`` and ``traces.jsonl``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from sd_search_verl.hindsight.prepare import FinishedRollout, TeacherInputs


def append_metrics(folder: Path, step: int, metrics: Mapping[str, Any]) -> None:
    """One JSON object with ``step`` and every scalar metric of that step."""
    scalars = {name: float(value) for name, value in metrics.items() if _is_scalar(value)}
    _append(folder / "metrics.jsonl", [{"step": step, **scalars}])


def append_traces(
    folder: Path,
    step: int,
    rollouts: Sequence[FinishedRollout],
    records: Sequence[Mapping[str, Any]],
    scores: Sequence[float],
    inputs: Sequence[TeacherInputs] | None,
    tokens: Sequence[Sequence[str]],
    limit: int,
) -> None:
    """Up to ``limit`` rollouts of a step, in whole groups.

    ``tokens`` holds the text of every response token, so that ``spans`` can be shown without a tokenizer. ``blocks`` is
    what the teacher read, one text per teacher row; empty while alpha is 0.
    """
    chosen = _whole_groups(rollouts, limit)
    lines = []
    for i in chosen:
        rollout, record = rollouts[i], records[i]
        lines.append(
            {
                "step": step,
                "group": rollout.group,
                "prompt": rollout.messages,
                "response": record["response"],
                "tokens": list(tokens[i]),
                "mask": rollout.response_mask,
                "queries": record["queries"],
                "spans": record["spans"],
                "gold_in_documents": record["gold_in_documents"],
                "answer": record["answer"],
                "golden_answers": record["golden_answers"],
                "em": record["em"],
                "f1": record["f1"],
                "score": scores[i],
                "status": record["status"],
                "blocks": inputs[i].blocks if inputs else [],
            }
        )
    _append(folder / "traces.jsonl", lines)


def _whole_groups(rollouts: Sequence[FinishedRollout], limit: int) -> list[int]:
    groups: dict[str, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        groups.setdefault(rollout.group, []).append(index)
    chosen: list[int] = []
    for members in groups.values():
        if len(chosen) + len(members) > limit:
            break
        chosen += members
    return chosen


def _append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell() and _last_byte(file) != b"\n":
            file.write(b"\n")  # a run killed in mid-write left half a line; the next must not join it
        # A policy can write half a surrogate pair; JSON escapes keep the file readable.
        file.writelines(json.dumps(line).encode() + b"\n" for line in lines)


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _is_scalar(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
