"""Curves of a comparison as SVG: a mean line and a band over the seeds of every arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.svg import COLOURS, Line, Panel, svg
from benchmarks.world.experiment import EvaluationRow
from benchmarks.world.summary import curves


def plot_learning(rows: Sequence[EvaluationRow], path: Path) -> None:
    """Draw held-out success and p(right phrasing) of every arm."""
    path.write_text(svg(learning_panels(rows)))


def learning_panels(rows: Sequence[EvaluationRow], setting: str = "") -> list[Panel]:
    """Return panels of held-out success and p(right phrasing)."""
    return [
        _panel(f"{setting}Held-out success", _lines(rows, lambda row: row.success)),
        _panel(f"{setting}p(right phrasing), held out", _lines(rows, lambda row: row.p_right)),
    ]


def plot_oracle(rows: Sequence[EvaluationRow], path: Path) -> None:
    """Draw teacher (solid) and student (dashed) of the arms with a teacher, and the gap of their entropies."""

    def pair(
        title: str, teacher: Callable[[EvaluationRow], float], student: Callable[[EvaluationRow], float]
    ) -> Panel:
        taught = _lines(rows, teacher)
        arms = [line.label for line in taught if line.points]
        said = [line for line in _lines(rows, student, dashed=True) if line.label in arms]
        return _panel(f"p(right): teacher, student dashed; {title}", taught + said)

    gap = _lines(rows, lambda row: row.student_entropy - row.teacher_entropy)
    panels = [
        pair("all groups", lambda r: r.teacher_p_right, lambda r: r.student_p_right),
        pair("mixed groups", lambda r: r.teacher_p_right_mixed, lambda r: r.student_p_right_mixed),
        pair("all-fail groups", lambda r: r.teacher_p_right_failed, lambda r: r.student_p_right_failed),
        _panel("Entropy gap: student - teacher (nats)", gap),
    ]
    path.write_text(svg(panels))


def _panel(title: str, lines: Sequence[Line]) -> Panel:
    """Return a panel with the lines that have points, and a scale in steps of 0.2 that holds them and 0."""
    drawn = [line for line in lines if line.points]
    values = [value for line in drawn for _, at in line.points for value in at]
    low, high = min([0.0, *values]), max([0.2, *values])
    return Panel(title, drawn, low=math.floor(low * 5) / 5, high=math.ceil(high * 5) / 5)


def _lines(
    rows: Sequence[EvaluationRow], value: Callable[[EvaluationRow], float], dashed: bool = False
) -> list[Line]:
    """Return one line per arm, each arm in the same colour in every plot."""
    lines = []
    for number, (arm, seeds) in enumerate(curves(rows).items()):
        at: dict[int, list[float]] = {}
        for row in (row for members in seeds.values() for row in members):
            if not math.isnan(value(row)):
                at.setdefault(row.rollouts, []).append(value(row))
        lines.append(Line(arm, COLOURS[number % len(COLOURS)], sorted(at.items()), dashed))
    return lines
