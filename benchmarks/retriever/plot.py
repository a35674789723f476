"""Draw ``benchmarks/retriever/load.csv``: what each server answered under closed-loop load.

    python -m benchmarks.retriever.plot [--corpus "synthetic-1M, fourth"] [--out docs/retriever_load.svg]

Lines are means over the slices, bands their range.
"""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.arguments import add_option, command_parser
from benchmarks.svg import COLOURS, Line, Panel, svg
from benchmarks.table import read_rows

HERE = Path(__file__).parent
SHOWN = (
    ("qps", "Queries a second"),
    ("cpu_ms_per_query", "Server CPU-ms per query"),
    ("p99_ms", "p99 in ms"),
)


def name(row: dict[str, str]) -> str:
    """Return the name of the server with the share of repeated queries, if any."""
    repeats = float(row["duplicates"])
    return f"{row['server']}, {repeats:.0%} repeats" if repeats else row["server"]


def panel(rows: list[dict[str, str]], column: str, title: str) -> Panel:
    """Draw one column by the number of clients, a line a server."""
    lines = []
    for server, colour in zip(dict.fromkeys(map(name, rows)), COLOURS, strict=False):
        points: dict[int, list[float]] = {}
        for row in rows:
            if name(row) == server:
                points.setdefault(int(row["clients"]), []).append(float(row[column]))
        lines.append(Line(server, colour, sorted(points.items())))
    highest = max(value for line in lines for _, values in line.points for value in values)
    step = 10 ** math.floor(math.log10(highest))
    return Panel(title, lines, 0.0, math.ceil(highest / step) * step, unit="clients")


def main() -> None:
    parser = command_parser(__doc__)
    add_option(parser, "--corpus", "synthetic-1M, fourth", "name of the corpus in the table")
    add_option(parser, "--out", HERE.parents[1] / "docs" / "retriever_load.svg", "file of the plot")
    options = parser.parse_args()
    table = [row for row in read_rows(HERE / "load.csv") if not float(row["rate"])]
    rows = [row for row in table if row["corpus"] == options.corpus]
    if not rows:
        known = ", ".join(repr(corpus) for corpus in dict.fromkeys(row["corpus"] for row in table))
        parser.error(f"--corpus={options.corpus} is not in the table, which has {known}")
    options.out.write_text(svg([panel(rows, column, title) for column, title in SHOWN]))


if __name__ == "__main__":
    main()
