"""Read ``metrics.jsonl`` and ``traces.jsonl`` of a run, which may be unfinished, or killed and resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sd_search_verl.errors import UserError

METRICS = "metrics.jsonl"
TRACES = "traces.jsonl"

_TRACE_TYPES: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "group": str,
    "prompt": list,
    "response": str,
    "tokens": list,
    "mask": list,
    "queries": list,
    "spans": list,
    "gold_in_documents": list,
    "answer": (str, type(None)),
    "golden_answers": list,
    "em": (int, float),
    "f1": (int, float),
    "score": (int, float),
    "status": str,
    "blocks": list,
}


@dataclass
class LineCounts:
    """What was left out of a file.

    Attributes:
        bad: lines that are not what the trainer writes.
        unfinished: the last line has no end: a run still writing, or killed while it wrote.
        superseded: lines of steps that a resumed run did again.
    """

    bad: int = 0
    unfinished: bool = False
    superseded: int = 0

    def notes(self, name: str) -> list[str]:
        """One sentence per kind, for the reader of the page."""
        found = []
        if self.bad:
            found.append(f"{name}: {_count(self.bad, 'unreadable line')} left out")
        if self.unfinished:
            found.append(f"{name}: the last line is half-written and left out")
        if self.superseded:
            found.append(
                f"{name}: {_count(self.superseded, 'line')} of steps done again after a resume left out"
            )
        return found


@dataclass
class Metrics:
    """Values by step, then by metric name."""

    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    counts: LineCounts = field(default_factory=LineCounts)


@dataclass(frozen=True)
class TraceLine:
    """Where a trace stands in its file. Traces are large; they are held as places until one is wanted."""

    offset: int
    step: int
    group: str


@dataclass
class Traces:
    """A run's traces in the order of the file; none when the run wrote no such file."""

    path: Path
    lines: list[TraceLine] = field(default_factory=list)
    counts: LineCounts = field(default_factory=LineCounts)

    def load(self, lines: Sequence[TraceLine]) -> Iterator[dict[str, Any]]:
        """The traces at these places."""
        if not lines:
            return
        with self.path.open("rb") as file:
            for line in lines:
                file.seek(line.offset)
                yield json.loads(file.readline())


def read_metrics(folder: Path) -> Metrics:
    """Metrics of a run folder.

    Raises:
        UserError: no such folder, or no metrics in it; not one step in the file.
    """
    path = _existing(folder)
    metrics = Metrics()
    for _, line in _json_lines(path, metrics.counts):
        step = line.pop("step", None)
        if not _is_int(step) or not all(isinstance(value, (int, float)) for value in line.values()):
            metrics.counts.bad += 1
            continue
        while metrics.steps and next(reversed(metrics.steps)) >= step:
            metrics.steps.popitem()
            metrics.counts.superseded += 1
        metrics.steps[step] = line
    if not metrics.steps:
        raise UserError(f"{path} holds no finished step; wait for the run's first step, or look at its log")
    return metrics


def read_traces(folder: Path) -> Traces:
    """Places of the traces in a run folder; none, and no error, for ``search.traces_per_step=0``."""
    traces = Traces(folder / TRACES)
    if not traces.path.is_file():
        return traces
    for offset, line in _json_lines(traces.path, traces.counts):
        if not _is_trace(line):
            traces.counts.bad += 1
            continue
        if traces.lines and line["step"] < traces.lines[-1].step:
            kept = [done for done in traces.lines if done.step < line["step"]]
            traces.counts.superseded += len(traces.lines) - len(kept)
            traces.lines = kept
        traces.lines.append(TraceLine(offset, line["step"], line["group"]))
    return traces


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the run's trainer.default_local_dir")
    path = folder / METRICS
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the run has not finished a step, was not trained with "
            "trainer.v1.trainer_mode=sd_search, or its trainer.default_local_dir is another folder"
        )
    return path


def _json_lines(path: Path, counts: LineCounts) -> Iterator[tuple[int, dict[str, Any]]]:
    """Offset and object of every readable line; the others are counted."""
    offset = 0
    with path.open("rb") as file:
        for raw in file:
            start, offset = offset, offset + len(raw)
            try:
                line = json.loads(raw)
            except ValueError:  # also text that is not UTF-8
                if raw.endswith(b"\n"):
                    counts.bad += bool(raw.strip())
                else:
                    counts.unfinished = True
                continue
            if isinstance(line, dict):
                yield start, line
            else:
                counts.bad += 1


def _is_trace(line: dict[str, Any]) -> bool:
    typed = all(isinstance(line.get(name), kind) for name, kind in _TRACE_TYPES.items())
    if not typed or not _is_int(line["step"]):
        return False
    length = len(line["tokens"])
    return (
        len(line["mask"]) == length
        and all(isinstance(token, str) for token in line["tokens"])
        and all(isinstance(message, dict) for message in line["prompt"])
        and all(_is_range(span, length) for span in line["spans"])
        and all(_is_per_token(line.get(name) or [], line["spans"]) for name in ("credit", "divergence"))
    )


def _is_per_token(values: Any, spans: Sequence[Sequence[int]]) -> bool:
    """One list per span, one value per token of it; or nothing at all."""
    return values == [] or (
        isinstance(values, list)
        and len(values) == len(spans)
        and all(
            isinstance(part, list) and len(part) == end - start
            for part, (start, end) in zip(values, spans, strict=True)
        )
    )


def _is_range(span: Any, length: int) -> bool:
    return (
        isinstance(span, list)
        and len(span) == 2
        and all(map(_is_int, span))
        and 0 <= span[0] <= span[1] <= length
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
