"""Write the tables of docs/results.md from benchmarks/summary.csv: ``python docs/results_tables.py``."""

from __future__ import annotations

import csv
from pathlib import Path

PAGE = Path(__file__).with_name("results.md")
DATA = PAGE.parents[1] / "benchmarks" / "summary.csv"
GROUPS = ("effect", "cost", "retriever", "correctness", "gpu")


def page(text: str) -> str:
    """Return the page with the table of each group replaced."""
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for group in GROUPS:
        begin, end = f"<!-- {group}: made by docs/results_tables.py -->", f"<!-- end of {group} -->"
        head, found, rest = text.partition(begin)
        if not found or end not in rest:
            raise ValueError(f"the page has no place for {group}: {begin} ... {end}")
        table = _table([row for row in rows if row["group"] == group])
        text = f"{head}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
    return text


def _table(rows: list[dict[str, str]]) -> str:
    lines = ["| figure | value | spread | date | command | rows |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        name = row["csv"]
        source = f"`benchmarks/{name}`" if "*" in name else f"[{name}](../benchmarks/{name})"
        cells = (
            row["name"],
            f"**{row['figure']}**",
            row["spread"],
            row["date"],
            f"`{row['command']}`",
            source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
