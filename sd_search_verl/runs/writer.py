"""What a run leaves behind beside verl's logs: ``metrics.jsonl`` and ``traces.jsonl``, each step once.

Traces of a step are written before its checkpoint. Its metrics are complete only after it, so the checkpoint carries
them as far as they are known, and a run that was killed in between takes them from there.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from sd_search_verl.hindsight.teacher_inputs import TeacherInputs
from sd_search_verl.report.read import METRICS, TRACES
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.verl_adapter.credit import SpanCredit
from sd_search_verl.verl_adapter.data_plane import StepRollouts

_OF_CHECKPOINT = "metrics.json"


def append_metrics(folder: Path, step: int, metrics: Mapping[str, Any]) -> None:
    """One JSON object with ``step`` and every scalar metric of that step."""
    _append(folder / METRICS, [_metrics_line(step, metrics)])


def keep_with_checkpoint(checkpoint: Path, step: int, metrics: Mapping[str, Any]) -> None:
    """Store a step's metrics in its checkpoint's folder."""
    (checkpoint / _OF_CHECKPOINT).write_text(json.dumps(_metrics_line(step, metrics)), encoding="utf-8")


def go_on_after(folder: Path, step: int, checkpoint: Path) -> list[dict[str, Any]]:
    """Make the files end with ``step``, from whose ``checkpoint`` a run goes on; returns the steps' metrics.

    Later lines are dropped: those steps are done again. A run that starts at step 0 keeps the files of an earlier one
    as ``*.old``.
    """
    if step == 0:
        for name in (METRICS, TRACES):
            if (folder / name).exists():
                (folder / name).replace(folder / f"{name}.old")
        return []
    for name in (METRICS, TRACES):
        _cut(folder / name, step)
    path, stored = folder / METRICS, checkpoint / _OF_CHECKPOINT
    rows = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    if stored.exists() and (not rows or rows[-1]["step"] < step):
        rows.append(json.loads(stored.read_bytes()))
        _append(path, rows[-1:])
    return rows


def _cut(path: Path, step: int) -> None:
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


def append_traces(
    folder: Path,
    number: int,
    step: StepRollouts,
    inputs: Sequence[TeacherInputs] | None,
    tokens: Mapping[int, Sequence[str]],
    credits: Mapping[int, SpanCredit],
) -> None:
    """The rollouts of step ``number`` for which ``tokens`` holds the text of every response token.

    With it ``spans`` can be shown without a tokenizer. ``blocks`` is what the teacher read, one text per teacher row;
    ``credit`` and ``divergence`` hold a list per span. All three are empty while alpha is 0.
    """
    lines = []
    for i, texts in tokens.items():
        rollout = step.rollouts[i]
        found = credits.get(i, SpanCredit([], []))
        lines.append(
            {
                "step": number,
                "group": rollout.prompt.group,
                "prompt": rollout.prompt.messages,
                "response": rollout.response,
                "tokens": list(texts),
                "mask": rollout.response_mask,
                "queries": rollout.queries,
                "spans": [list(span) for span in rollout.spans],
                "gold_in_documents": [int(search.has_gold) for search in rollout.searches],
                "answer": rollout.answer,
                "golden_answers": list(rollout.prompt.golden_answers),
                "em": rollout.em,
                "f1": rollout.f1,
                "score": step.rewards[i],
                "status": rollout.status,
                "blocks": inputs[i].blocks if inputs else [],
                "credit": found.credit,
                "divergence": found.divergence,
            }
        )
    if lines:
        _append(folder / TRACES, lines)


def traced(rollouts: Sequence[Rollout], limit: int) -> list[int]:
    """Up to ``limit`` rollouts, in whole groups."""
    groups: dict[str, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        groups.setdefault(rollout.prompt.group, []).append(index)
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


def _metrics_line(step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
    return {"step": step, **{name: float(value) for name, value in metrics.items() if _is_scalar(value)}}


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _is_scalar(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
