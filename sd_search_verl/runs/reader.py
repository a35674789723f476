"""Read ``metrics.jsonl`` and ``traces.jsonl`` of a run, which may be unfinished, or killed and resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sd_search_verl.errors import UserError
from sd_search_verl.runs.schema import FORMAT_VERSION, METRICS_FILE, TRACES_FILE, StepMetrics, Trace


@dataclass
class LineCounts:
    """Lines of a file that were left out.

    Attributes:
        bad: lines that break the schema.
        unfinished: the last line has no end: a run still writing, or killed while it wrote.
        superseded: lines of steps that a resumed run did again.
        newer: lines of a later format.
    """

    bad: int = 0
    unfinished: bool = False
    superseded: int = 0
    newer: int = 0

    def notes(self, name: str) -> list[str]:
        """Return a sentence per kind, for the reader of the report."""
        found = []
        if self.bad:
            found.append(f"{name}: {_count(self.bad, 'unreadable line')} left out")
        if self.unfinished:
            found.append(f"{name}: the last line is half-written and left out")
        if self.superseded:
            found.append(
                f"{name}: {_count(self.superseded, 'line')} of steps done again after a resume left out"
            )
        if self.newer:
            found.append(
                f"{name}: {_count(self.newer, 'line')} of a newer format left out; update sd_search_verl"
            )
        return found


@dataclass
class Metrics:
    """Values by step, then by metric name."""

    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    counts: LineCounts = field(default_factory=LineCounts)


@dataclass(frozen=True)
class TraceRef:
    """Place of a trace in its file. Traces are large, so they are loaded only when needed."""

    offset: int
    step: int
    group: str


@dataclass
class Traces:
    """A run's traces in the order of the file; none when the run wrote no such file."""

    path: Path
    refs: list[TraceRef] = field(default_factory=list)
    counts: LineCounts = field(default_factory=LineCounts)

    def load(self, refs: Sequence[TraceRef]) -> Iterator[Trace]:
        """Yield the traces at these places."""
        if not refs:
            return
        with self.path.open("rb") as file:
            for ref in refs:
                file.seek(ref.offset)
                yield Trace.model_validate(json.loads(file.readline()))


def read_metrics(folder: Path) -> Metrics:
    """Return the metrics of a run folder.

    Raises:
        UserError: no such folder, no metrics in it, or not one finished step.
    """
    path = _existing(folder)
    metrics = Metrics()
    for _, line in _json_lines(path, metrics.counts):
        read = _step_metrics(line)
        if read is None:
            metrics.counts.bad += 1
            continue
        while metrics.steps and next(reversed(metrics.steps)) >= read.step:
            metrics.steps.popitem()
            metrics.counts.superseded += 1
        metrics.steps[read.step] = read.values
    if not metrics.steps:
        raise UserError(f"{path} holds no finished step; wait for the run's first step, or look at its log")
    return metrics


def read_traces(folder: Path) -> Traces:
    """Return the places of the traces in a run folder; none, and no error, for ``search.traces_per_step=0``."""
    traces = Traces(folder / TRACES_FILE)
    if not traces.path.is_file():
        return traces
    for offset, line in _json_lines(traces.path, traces.counts):
        if _is_int(version := line.get("version", FORMAT_VERSION)) and version > FORMAT_VERSION:
            traces.counts.newer += 1
            continue
        try:
            trace = Trace.model_validate(line)
        except ValidationError:
            traces.counts.bad += 1
            continue
        if traces.refs and trace.step < traces.refs[-1].step:
            kept = [ref for ref in traces.refs if ref.step < trace.step]
            traces.counts.superseded += len(traces.refs) - len(kept)
            traces.refs = kept
        traces.refs.append(TraceRef(offset, trace.step, trace.group))
    return traces


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the run's trainer.default_local_dir")
    path = folder / METRICS_FILE
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the run has not finished a step, was not trained with "
            "trainer.v1.trainer_mode=sd_search, or its trainer.default_local_dir is another folder"
        )
    return path


def _json_lines(path: Path, counts: LineCounts) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield offset and object of every readable line; count the others."""
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


def _step_metrics(line: dict[str, Any]) -> StepMetrics | None:
    step = line.pop("step", None)
    if not _is_int(step) or not all(isinstance(value, (int, float)) for value in line.values()):
        return None
    return StepMetrics(step, line)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
