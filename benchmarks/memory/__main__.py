"""Device memory of a training step by count: which policy fits which cards, and with which options.

    python -m benchmarks.memory              # the table of docs/memory.md
    python -m benchmarks.memory --csv        # one line a case and option, with its parts

Nothing here is measured on a GPU. ``benchmarks.memory.points`` compares the counts with what torch holds.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from benchmarks.arguments import command_parser
from benchmarks.memory.counts import GB, LONGEST, Plan, fits, host, rollout, synchronisation, update
from benchmarks.shapes import SHAPES, Shape

OPTIONS: dict[str, dict[str, Any]] = {
    "+": {},
    "o": {"offload": True},
    "8": {"offload": True, "tokens": 8192},
    "6": {"offload": True, "tokens": LONGEST, "utilization": 0.8},
    "p": {"offload": True, "tokens": LONGEST, "utilization": 0.8, "offload_training": True},
}
"""From the paper's own to the slowest; docs/memory.md gives the overrides."""


def plans(cards: int, rank: int) -> Iterator[tuple[str, Plan]]:
    """Return every option with fp32 weights."""
    return ((name, replace(Plan(cards, rank), **changes)) for name, changes in OPTIONS.items())


def first_fit(shape: Shape, card: float, cards: int, rank: int) -> tuple[str, Plan] | None:
    """Return the first of :func:`plans` that fits, or None."""
    return next(((text, plan) for text, plan in plans(cards, rank) if fits(shape, plan, card)), None)


CARDS = (24, 48, 80, 141)
COUNTS = (1, 2, 4, 8, 16)
RANK = 64
"""Of the adapters in ``gpus=1x1``."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, or every case with its parts as CSV."""
    parser = command_parser(__doc__, "python -m benchmarks.memory")
    parser.add_argument("--csv", action="store_true", help="every case and option, one line each")
    if parser.parse_args(argv).csv:
        _write_csv()
    else:
        print(table())


def table() -> str:
    """Markdown: for every policy and card the first option that fits, by number of cards."""
    lines = [
        f"| policy | trained | {' | '.join(f'{card} GB' for card in CARDS)} |",
        "| --- " * (len(CARDS) + 2) + "|",
    ]
    for name, shape in SHAPES.items():
        for rank in (RANK, 0):
            cells = []
            for card in CARDS:
                found = [first_fit(shape, card * GB, cards, rank) for cards in COUNTS]
                cells.append(" ".join(fit[0] if fit else "no" for fit in found))
            lines.append(f"| {name} | {'LoRA' if rank else 'all'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _write_csv() -> None:
    writer = csv.writer(sys.stdout)
    parts = ["weights", "gradients", "moments", "other of the update", "rollout", "synchronisation", "host"]
    writer.writerow(["policy", "trained", "card_gb", "cards", "options", "fits", *(f"{p}_gb" for p in parts)])
    for (name, shape), rank, card, cards in product(SHAPES.items(), (RANK, 0), CARDS, COUNTS):
        for text, plan in plans(cards, rank):
            needs = update(shape, plan)
            numbers = [needs.pop(part) for part in parts[:3]]
            numbers += [
                sum(needs.values()),
                rollout(shape, plan, card * GB)["trainer"] + plan.utilization * card * GB,
                synchronisation(shape, plan),
                host(shape, plan, 8),
            ]
            kind = f"LoRA {rank}" if rank else "all"
            row = [name, kind, card, cards, text, fits(shape, plan, card * GB)]
            writer.writerow([*row, *(f"{number / GB:.1f}" for number in numbers)])


if __name__ == "__main__":
    main()
