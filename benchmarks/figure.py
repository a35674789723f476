"""A stated figure, and the rows of the CSVs that it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.table import read_rows

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Figure:
    """One stated figure; ``group`` is effect, cost, retriever, correctness or gpu."""

    group: str
    name: str
    figure: str
    spread: str
    csv: str
    command: str
    date: str
    device: str


def rows_of(name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV of this folder."""
    return read_rows(FOLDER / name)
