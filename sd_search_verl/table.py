"""Plain text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def render(lines: Sequence[Sequence[str]]) -> str:
    """Return a table of texts: the first line is the head; the first column is aligned left, the others right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([rows[0], "  ".join("-" * width for width in widths), *rows[1:]])
