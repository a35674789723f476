"""Curves of a comparison as SVG: a mean line and a band over the seeds of every arm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from sd_search_verl.world.experiment import Row
from sd_search_verl.world.summary import curves

# Okabe and Ito's palette, then some of Tol's: distinct for colour-blind readers too.
COLOURS = (
    *("#000000", "#0072b2", "#d55e00", "#e69f00", "#999999", "#cc79a7", "#009e73", "#56b4e9"),
    *("#882255", "#ddcc77", "#332288", "#117733"),
)
WIDTH, HEIGHT, MARGIN = 340, 230, 46
LINE_HEIGHT = 16


@dataclass(frozen=True)
class Line:
    """One arm in one panel; ``points`` are (rollouts, value of each seed)."""

    arm: str
    colour: str
    points: list[tuple[int, list[float]]]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    title: str
    lines: Sequence[Line]
    low: float
    high: float
    unit: str = "rollouts"


def plot_learning(rows: Sequence[Row], path: Path) -> None:
    """Held-out success and p(right phrasing) of every arm."""
    panels = [
        _panel("Held-out success", _lines(rows, lambda row: row.success)),
        _panel("p(right phrasing), held-out questions", _lines(rows, lambda row: row.p_right)),
    ]
    path.write_text(svg(panels))


def plot_oracle(rows: Sequence[Row], path: Path) -> None:
    """Teacher (solid) and student (dashed) in the arms that have a teacher, and how far apart their entropies are."""

    def pair(title: str, teacher: Callable[[Row], float], student: Callable[[Row], float]) -> Panel:
        taught = _lines(rows, teacher)
        arms = [line.arm for line in taught if line.points]
        said = [line for line in _lines(rows, student, dashed=True) if line.arm in arms]
        return _panel(f"p(right): teacher, student dashed; {title}", taught + said)

    gap = _lines(rows, lambda row: row.student_entropy - row.teacher_entropy)
    panels = [
        pair("all groups", lambda r: r.teacher_p_right, lambda r: r.student_p_right),
        pair("mixed groups", lambda r: r.teacher_p_right_mixed, lambda r: r.student_p_right_mixed),
        pair("all-fail groups", lambda r: r.teacher_p_right_failed, lambda r: r.student_p_right_failed),
        _panel("Entropy gap: student - teacher (nats)", gap),
    ]
    path.write_text(svg(panels))


def svg(panels: Sequence[Panel]) -> str:
    """Panels side by side, two in a row, and a legend below."""
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    arms = {line.arm: line.colour for panel in panels for line in panel.lines}
    per_line = 5
    legend_lines = -(-len(arms) // per_line)
    width, top = across * WIDTH, down * HEIGHT
    parts = [_draw(panel, i % across * WIDTH, i // across * HEIGHT) for i, panel in enumerate(panels)]
    for i, (arm, colour) in enumerate(arms.items()):
        x = MARGIN + i % per_line * (width - MARGIN) / per_line
        y = top + 12 + i // per_line * LINE_HEIGHT
        parts.append(
            f'<path d="M{x:.0f} {y - 4}h18" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{x + 22:.0f}" y="{y}">{escape(arm)}</text>'
        )
    height = top + 12 + legend_lines * LINE_HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(title: str, lines: Sequence[Line]) -> Panel:
    """With the lines that have points, and a scale in steps of 0.2 that holds them and 0."""
    drawn = [line for line in lines if line.points]
    values = [value for line in drawn for _, at in line.points for value in at]
    low, high = min([0.0, *values]), max([0.2, *values])
    return Panel(title, drawn, low=math.floor(low * 5) / 5, high=math.ceil(high * 5) / 5)


def _lines(rows: Sequence[Row], value: Callable[[Row], float], dashed: bool = False) -> list[Line]:
    """One line per arm, in the same colour whatever is shown."""
    lines = []
    for number, (arm, seeds) in enumerate(curves(rows).items()):
        at: dict[int, list[float]] = {}
        for row in (row for members in seeds.values() for row in members):
            if not math.isnan(value(row)):
                at.setdefault(row.rollouts, []).append(value(row))
        lines.append(Line(arm, COLOURS[number % len(COLOURS)], sorted(at.items()), dashed))
    return lines


def _draw(panel: Panel, left: float, top: float) -> str:
    """Axes, bands (lowest to highest seed) and mean lines."""
    last = max((x for line in panel.lines for x, _ in line.points), default=1)
    x0, y0 = left + MARGIN, top + HEIGHT - 34
    across, up = WIDTH - MARGIN - 12, HEIGHT - 62

    def place(x: float, y: float) -> str:
        share = (y - panel.low) / (panel.high - panel.low)
        return f"{x0 + across * x / last:.1f} {y0 - up * share:.1f}"

    parts = [f'<text x="{x0}" y="{top + 18}" font-weight="bold">{escape(panel.title)}</text>']
    for i in range(5):
        y = panel.low + (panel.high - panel.low) * i / 4
        at = y0 - up * i / 4
        parts.append(f'<path d="M{x0} {at:.1f}h{across}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 6}" y="{at + 4:.1f}" text-anchor="end">{y:.2f}</text>')
    for i in range(3):
        x = x0 + across * i / 2
        anchor = ("start", "middle", "end")[i]
        unit = f" {panel.unit}" if i == 2 else ""
        parts.append(
            f'<text x="{x:.0f}" y="{y0 + 16:.0f}" text-anchor="{anchor}">{last * i // 2}{unit}</text>'
        )
    for line in panel.lines:
        upper = [place(x, max(values)) for x, values in line.points]
        lower = [place(x, min(values)) for x, values in reversed(line.points)]
        mean = [place(x, statistics.fmean(values)) for x, values in line.points]
        dash = ' stroke-dasharray="4 3"' if line.dashed else ""
        parts.append(f'<path d="M{"L".join(upper + lower)}Z" fill="{line.colour}" opacity="0.1"/>')
        parts.append(
            f'<path d="M{"L".join(mean)}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>'
        )
    return "".join(parts)
