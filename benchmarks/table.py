"""CSVs of the benchmarks."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a table; the first row names its columns."""
    path.unlink(missing_ok=True)
    append_rows(path, rows)


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Add rows to a table, a new one begins with its columns.

    Args:
        columns: of the table, where rows may lack some; None takes those of the first row.
    """
    rows = list(rows)
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, columns or [name for row in rows[:1] for name in row], lineterminator="\n"
        )
        if new:
            writer.writeheader()
        writer.writerows(rows)
