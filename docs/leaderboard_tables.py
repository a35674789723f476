"""Write the tables of docs/leaderboard.md from docs/leaderboard.csv: ``python docs/leaderboard_tables.py``."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sd_search_verl.evaluation.statistics import undo_batch_mean

PAGE = Path(__file__).with_name("leaderboard.md")
DATA = Path(__file__).with_name("leaderboard.csv")
SETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wiki", "musique", "bamboogle")
QUESTIONS = 125
"""Questions of Bamboogle."""

NEAR = 0.1
"""Largest distance of a printed value, in per cent, from the batch mean taken for it where no count prints as it."""


@dataclass(frozen=True)
class Row:
    """One published result: EM in per cent per set, as printed, and where it was read."""

    size: str
    model: str
    method: str
    metric: str  # of Bamboogle: plain, batches or unknown
    read: str  # text, picture, or quoted by others
    source: str
    printed: dict[str, float | None]
    average: float | None
    note: str

    @property
    def right(self) -> int | None:
        """Bamboogle's right answers, from the mean of batch means; None for other rows."""
        printed = self.printed["bamboogle"]
        if self.metric != "batches" or printed is None:
            return None
        (count,) = undo_batch_mean(printed) or undo_batch_mean(printed, rounding=NEAR)
        return count

    @property
    def exact(self) -> bool:
        """Whether a count's batch mean prints as the value."""
        printed = self.printed["bamboogle"]
        return printed is not None and bool(undo_batch_mean(printed))

    @property
    def plain(self) -> dict[str, float | None]:
        """The columns with Bamboogle as a plain share."""
        right = self.right
        return self.printed if right is None else {**self.printed, "bamboogle": 100 * right / QUESTIONS}

    @property
    def corrected(self) -> float | None:
        """Mean of the plain columns; the printed average where columns are missing or the row is plain."""
        values = [value for value in self.plain.values() if value is not None]
        return fmean(values) if self.metric == "batches" and len(values) == len(SETS) else self.average


def read(path: Path = DATA) -> list[Row]:
    """Return the rows of the data file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, str]) -> Row:
    text = {name: line[name] for name in ("size", "model", "method", "metric", "read", "source", "note")}
    printed = {name: float(line[name]) if line[name] else None for name in SETS}
    return Row(printed=printed, average=float(line["average"]) if line["average"] else None, **text)


def board(rows: Iterable[Row]) -> str:
    """Return the rows that have an average on the plain metric, highest first."""
    lines = ["| method | model | mean of 7 | NQ | Trivia | Pop | Hotpot | 2Wiki | MuSiQ | Bamb | read in |"]
    lines.append("| --- " * 11 + "|")
    known = [row for row in rows if row.corrected is not None and row.metric != "unknown"]
    for row in sorted(known, key=lambda row: -(row.corrected or 0)):
        mean = f"{row.corrected:.1f}" + ("\\*" if row.metric == "batches" else "")
        cells = (row.method + _remark(row), row.model, mean, *map(_number, row.plain.values()), _source(row))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def corrections(rows: Iterable[Row]) -> str:
    """Return the rows whose Bamboogle is a mean of batch means, as reported and corrected, and their baselines."""
    heads = ("size", "method", "Bamboogle reported", "right of 125", "corrected")
    lines = [f"| {' | '.join((*heads, 'mean of 7 reported', 'corrected', 'mean of the 6 others'))} |"]
    lines.append("| --- " * 8 + "|")
    for row in rows:
        printed = row.printed["bamboogle"]
        if row.right is not None and printed is not None:
            about = "" if row.exact else "≈ "
            share = f"{about}{100 * row.right / QUESTIONS:.1f}"
            cells = (row.size, row.method, f"{printed:.1f}", f"{about}{row.right}", share, _reported(row))
        elif row.source == SDAR and printed is not None:
            cells = (
                row.size,
                row.method,
                f"{printed:.1f}",
                f"{round(printed * QUESTIONS / 100)}",
                "plain",
                _reported(row),
            )
        else:
            continue
        others = fmean(
            value for name, value in row.printed.items() if name != "bamboogle" and value is not None
        )
        lines.append("| " + " | ".join((*cells, _number(row.corrected), f"{others:.1f}")) + " |")
    return "\n".join(lines)


SDAR = "https://github.com/ZJU-REAL/SDAR/blob/main/docs/sdar/metric.png"


def evidence(rows: Iterable[Row]) -> str:
    """Return how many of the different printed values are a batch mean, and how many would be by chance."""
    values = {row.printed["bamboogle"] for row in rows if row.metric == "batches"} - {None, 0.0}
    exact = sum(bool(undo_batch_mean(value)) for value in values if value is not None)
    chance = fmean(bool(undo_batch_mean(tenth / 10)) for tenth in range(501, 1000))
    return (
        f"Of {len(values)} different values above 0 in the table, {exact} are the mean of batch means of a whole "
        f"number of right answers, rounded to 0.1, and {len(values) - exact} are off by 0.1. Of random values "
        f"{chance:.0%} would be."
    )


def _reported(row: Row) -> str:
    columns = fmean(value for value in row.printed.values() if value is not None)
    printed = _number(row.average)
    return (
        printed
        if row.average is None or abs(columns - row.average) < 0.11
        else f"{printed} (its columns: {columns:.1f})"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _remark(row: Row) -> str:
    return f" ({row.note})" if row.note else ""


def _source(row: Row) -> str:
    name = row.source.split("github.com/")[-1].split("/blob")[0].removeprefix("https://arxiv.org/abs/")
    return f"[{name}]({row.source}), {row.read}" if row.source else row.read


TABLES: dict[str, Callable[[list[Row]], str]] = {
    "3B": lambda rows: board(row for row in rows if row.size == "3B"),
    "7B": lambda rows: board(row for row in rows if row.size == "7B"),
    "corrections": corrections,
    "evidence": evidence,
}


def page(text: str) -> str:
    """Return the page with each of its tables replaced."""
    rows = read()
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: made by docs/leaderboard_tables.py -->", f"<!-- end of {name} -->"
        head, found, rest = text.partition(begin)
        if not found or end not in rest:
            raise ValueError(f"the page has no place for {name}: {begin} ... {end}")
        text = f"{head}{begin}\n\n{make(rows)}\n\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
