"""Line charts as SVG: panels side by side, a mean line and a band over repeats for every line."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's palette, then some of Tol's: distinct for colour-blind readers too.
COLOURS = (
    *("#000000", "#0072b2", "#d55e00", "#e69f00", "#999999", "#cc79a7", "#009e73", "#56b4e9"),
    *("#882255", "#ddcc77", "#332288", "#117733"),
)
WIDTH, HEIGHT, MARGIN = 340, 230, 46
LINE_HEIGHT = 16


@dataclass(frozen=True)
class Line:
    """``points`` are (x, values of the repeats at x)."""

    label: str
    colour: str
    points: list[tuple[int, list[float]]]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """A chart with its scale."""

    title: str
    lines: Sequence[Line]
    low: float
    high: float
    unit: str = "rollouts"


def svg(panels: Sequence[Panel]) -> str:
    """Draw panels side by side, two in a row, and a legend below."""
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    labels = {line.label: line.colour for panel in panels for line in panel.lines}
    per_line = 5
    legend_lines = -(-len(labels) // per_line)
    width, top = across * WIDTH, down * HEIGHT
    parts = [_draw(panel, i % across * WIDTH, i // across * HEIGHT) for i, panel in enumerate(panels)]
    for i, (label, colour) in enumerate(labels.items()):
        x = MARGIN + i % per_line * (width - MARGIN) / per_line
        y = top + 12 + i // per_line * LINE_HEIGHT
        parts.append(
            f'<path d="M{x:.0f} {y - 4}h18" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{x + 22:.0f}" y="{y}">{escape(label)}</text>'
        )
    height = top + 12 + legend_lines * LINE_HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _draw(panel: Panel, left: float, top: float) -> str:
    """Draw axes, bands (lowest to highest value) and mean lines."""
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
        parts.append(f'<text x="{x0 - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(y)}</text>')
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


def _number(y: float) -> str:
    """Return a label of an axis that fits beside it."""
    return f"{y:.2f}" if abs(y) < 100 else f"{y:,.0f}"
