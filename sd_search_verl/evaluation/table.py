"""Plain text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from sd_search_verl.evaluation.statistics import Estimate


def render(lines: Sequence[Sequence[str]]) -> str:
    """A table of texts: the first line is the head, the first column is left-aligned, the others right-aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([rows[0], "  ".join("-" * width for width in widths), *rows[1:]])


def percent(estimate: Estimate) -> str:
    """``42.1 [40.0, 44.2]``: per cent, with the 95 % interval."""
    return f"{100 * estimate.mean:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def signed_percent(estimate: Estimate) -> str:
    """``+1.2 [-0.3, +2.7]``: a difference in points."""
    return f"{100 * estimate.mean:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
