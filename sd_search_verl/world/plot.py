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

# Okabe and Ito's palette: distinct for colour-blind readers too.
COLOURS = ("#000000", "#0072b2", "#d55e00", "#e69f00", "#999999", "#cc79a7", "#009e73", "#56b4e9")
WIDTH, HEIGHT, MARGIN = 340, 230, 46
LINE_HEIGHT = 16


@dataclass(frozen=True)
class Line:
    """One arm in one panel; ``points`` are (rollouts, value of each seed)."""

    label: str
    colour: str
    points: list[tuple[int, list[float]]]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    title: str
    lines: list[Line]
    low: float = 0.0
    high: float = 1.0


def plot_learning(rows: Sequence[Row], path: Path) -> None:
    """Held-out success and p(right phrasing) of every arm."""
    panels = [
        _panel(rows, "Held-out success", lambda row: row.success),
        _panel(rows, "p(right phrasing), held-out questions", lambda row: row.p_right),
    ]
    path.write_text(svg(panels))


def plot_oracle(rows: Sequence[Row], path: Path) -> None:
    """Teacher against student in the arms that have a teacher, and how far apart their entropies are."""
    taught = [row for row in rows if any(_known(r.teacher_p_right) for r in rows if r.arm == row.arm)]
    panels = [
        _pair(taught, "All groups", lambda r: r.teacher_p_right, lambda r: r.student_p_right),
        _pair(taught, "Mixed groups", lambda r: r.teacher_p_right_mixed, lambda r: r.student_p_right_mixed),
        _pair(
            taught, "All-fail groups", lambda r: r.teacher_p_right_failed, lambda r: r.student_p_right_failed
        ),
        _panel(
            taught, "Entropy gap: student - teacher (nats)", lambda r: r.student_entropy - r.teacher_entropy
        ),
    ]
    path.write_text(svg(panels))


def svg(panels: Sequence[Panel]) -> str:
    """Panels side by side, two in a row, and a legend below."""
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    labels = {line.label: line for panel in panels for line in panel.lines}
    per_line = 5
    legend_lines = -(-len(labels) // per_line)
    width, top = across * WIDTH, down * HEIGHT
    parts = [_draw(panel, i % across * WIDTH, i // across * HEIGHT) for i, panel in enumerate(panels)]
    for i, line in enumerate(labels.values()):
        x = MARGIN + i % per_line * (width - MARGIN) / per_line
        y = top + 12 + i // per_line * LINE_HEIGHT
        dash = ' stroke-dasharray="4 3"' if line.dashed else ""
        parts.append(
            f'<path d="M{x:.0f} {y - 4}h18" stroke="{line.colour}" stroke-width="2"{dash}/>'
            f'<text x="{x + 22:.0f}" y="{y}">{escape(line.label)}</text>'
        )
    height = top + 12 + legend_lines * LINE_HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(rows: Sequence[Row], title: str, value: Callable[[Row], float]) -> Panel:
    lines = _lines(rows, value)
    means = [v for line in lines for _, values in line.points for v in values]
    low, high = min([0.0, *means]), max([0.0, *means])
    return Panel(title, lines, low=math.floor(low * 5) / 5, high=max(0.2, math.ceil(high * 5) / 5))


def _pair(
    rows: Sequence[Row], title: str, teacher: Callable[[Row], float], student: Callable[[Row], float]
) -> Panel:
    lines = _lines(rows, teacher, " teacher") + _lines(rows, student, " student", dashed=True)
    return Panel(f"p(right phrasing): {title}", lines)


def _lines(
    rows: Sequence[Row], value: Callable[[Row], float], suffix: str = "", dashed: bool = False
) -> list[Line]:
    lines = []
    for number, (arm, seeds) in enumerate(curves(rows).items()):
        at: dict[int, list[float]] = {}
        for row in (row for members in seeds.values() for row in members):
            if _known(value(row)):
                at.setdefault(row.rollouts, []).append(value(row))
        colour = COLOURS[number % len(COLOURS)]
        lines.append(Line(f"{arm}{suffix}", colour, sorted(at.items()), dashed))
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
        unit = " rollouts" if i == 2 else ""
        parts.append(
            f'<text x="{x:.0f}" y="{y0 + 16:.0f}" text-anchor="{anchor}">{last * i // 2}{unit}</text>'
        )
    for line in (line for line in panel.lines if line.points):
        upper = [place(x, max(values)) for x, values in line.points]
        lower = [place(x, min(values)) for x, values in reversed(line.points)]
        mean = [place(x, statistics.fmean(values)) for x, values in line.points]
        dash = ' stroke-dasharray="4 3"' if line.dashed else ""
        parts.append(f'<path d="M{"L".join(upper + lower)}Z" fill="{line.colour}" opacity="0.1"/>')
        parts.append(
            f'<path d="M{"L".join(mean)}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>'
        )
    return "".join(parts)


def _known(value: float) -> bool:
    return not math.isnan(value)
