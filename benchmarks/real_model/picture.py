"""Draw the credit of five real queries, token by token, under true and under flipped labels.

``python -m benchmarks.real_model.picture MODEL --traces FILE --out FILE.svg`` takes the first groups with both
outcomes, and of each, in turns, the first CORRECT and the first INCORRECT rollout whose query no other outcome has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch

from sd_search_verl import protocol as protocols
from sd_search_verl.command_line import Parser, run_command
from sd_search_verl.config import HindsightConfig
from sd_search_verl.hindsight.block import is_correct
from sd_search_verl.probe.conditions import FLIPPED, TRUE
from sd_search_verl.probe.config import ProbeConfig
from sd_search_verl.probe.groups import read_groups
from sd_search_verl.probe.scores import ScoredRollout, load_model, score_groups
from sd_search_verl.protocol.token_bytes import token_texts

QUERIES = 5
CHARACTER, ROW, LEFT, WIDTH = 7.3, 24, 132, 760
UP, DOWN = (0, 114, 178), (213, 94, 0)  # Okabe and Ito's blue and vermilion
FULL = 3.0
"""Nats at which the colour is full."""


@dataclass(frozen=True)
class Query:
    """A query with the credit of its tokens in nats, by condition."""

    question: str
    correct: bool
    tokens: Sequence[str]
    credit: dict[str, list[float]]


def chosen(groups: Sequence[Sequence[ScoredRollout]], tokenizer: Any) -> Iterator[Query]:
    """Yield one query of each group with both outcomes, CORRECT and INCORRECT in turns."""
    wanted = True
    for group in groups:
        texts = {
            outcome: {r.queries[0][0] for r in group if r.correct == outcome} for outcome in (True, False)
        }
        own = texts[wanted] - texts[not wanted]
        found = next((r for r in group if r.correct == wanted and r.queries[0][0] in own), None)
        if found is None or not texts[not wanted]:
            continue
        at = found.queries[0][2]
        credit = {name: found.readings[name].credit[at].tolist() for name in (TRUE, FLIPPED)}
        yield Query(found.group, wanted, token_texts(found.tokens[at], tokenizer), credit)
        wanted = not wanted


def draw(queries: Sequence[Query]) -> str:
    """Return the picture."""
    parts, y = [], 20
    for query in queries:
        outcome = "CORRECT" if query.correct else "INCORRECT"
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{escape(query.question)}</text>')
        parts.append(f'<text x="{WIDTH - 8}" y="{y}" text-anchor="end">{outcome}</text>')
        for name, credit in query.credit.items():
            y += ROW
            parts.append(f'<text x="8" y="{y}">{name} {sum(credit) / len(credit):+.2f}</text>')
            parts += _tokens(query.tokens, credit, y)
        y += ROW + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" '
        f'font-family="monospace" font-size="12">\n<rect width="{WIDTH}" height="{y}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _tokens(tokens: Sequence[str], credit: Sequence[float], y: int) -> Iterator[str]:
    x = float(LEFT)
    for token, value in zip(tokens, credit, strict=True):
        width = CHARACTER * max(1, len(token))
        red, green, blue = UP if value > 0 else DOWN
        strength = min(1.0, abs(value) / FULL)
        yield (
            f'<rect x="{x:.1f}" y="{y - 14}" width="{width:.1f}" height="19" rx="2" '
            f'fill="rgb({red},{green},{blue})" opacity="{0.75 * strength:.2f}"><title>{value:+.2f} nats</title></rect>'
            f'<text x="{x:.1f}" y="{y}" xml:space="preserve">{escape(token)}</text>'
        )
        x += width + 2


def run(options: argparse.Namespace) -> int:
    """Score the groups and write the picture."""
    torch.set_num_threads(1)
    hindsight = HindsightConfig(label=options.label)
    config = ProbeConfig(conditions="needed", hindsight=hindsight)
    model, tokenizer = load_model(options.model, config)
    groups = read_groups(options.traces, tokenizer, protocols.get(config.protocol))
    groups.sort(key=lambda group: len({is_correct(rollout, hindsight) for rollout in group}) < 2)
    queries: list[Query] = []
    for start in range(0, len(groups), QUERIES):
        scored = score_groups(model, tokenizer, groups[start : start + QUERIES], config)
        queries = [*queries, *chosen(scored, tokenizer)]
        if len(queries) >= QUERIES:
            break
    options.out.write_text(draw(queries[:QUERIES]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser(prog="python -m benchmarks.real_model.picture", description=__doc__)
    parser.add_argument("model", type=Path, help="Hugging Face folder")
    parser.add_argument("--traces", type=Path, required=True, metavar="FILE", help="groups of rollouts")
    parser.add_argument(
        "--label", choices=("f1", "em", "reward"), default="f1", help="(default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="picture to write")
    parser.set_defaults(action=run)
    return run_command(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
