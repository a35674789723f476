"""Tables: the CSVs of the benchmarks, and the JSON lines of runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV by the names of its columns."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file with one a line, such as a run's ``metrics.jsonl``."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


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
