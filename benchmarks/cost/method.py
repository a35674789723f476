"""What each switch of the family adds to the actor's update, beside SD-Search and plain GRPO.

    python -m benchmarks.cost.method [--repeats 5]

Random weights of the shape ``tiny``, five rollouts of recorded lengths, verl's worker in one process, one thread; every
method in turn, so that all see the same machine. Writes ``benchmarks/cost/method.csv``: medians of the process's
seconds an update, and of the ratio to GRPO's and to SD-Search's of the same turn with its quartiles.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.arguments import add_option, command_parser
from benchmarks.cost import actor, floor, trajectories
from benchmarks.machine import device_name
from benchmarks.shapes import TIMED
from benchmarks.spread import quartiles
from benchmarks.table import write_rows
from sd_search_verl.config import SDSearchConfig
from sd_search_verl.objectives.information_gain import RANDOM_DOCUMENTS, GainInputs
from sd_search_verl.verl_adapter.actor.gain import pack_gain
from sd_search_verl.verl_adapter.fields import nested

METHODS: dict[str, tuple[float, dict[str, Any]]] = {
    "grpo": (0.0, {}),
    "sd": (1e-3, {}),
    "llds": (0.0, {"regularizer": "llds"}),
    "sapo": (0.0, {"regularizer": "sapo"}),
    "gate": (1e-3, {"gate": "sigmoid"}),
    "advantage": (0.5, {"use": "advantage"}),
    "ema": (1e-3, {"teacher": "ema"}),
    "info_gain": (0.0, {"information_gain": 0.3}),
}
"""Name -> alpha and what is changed in the config."""


OBSERVATION, ANSWER = 150, 4
"""Tokens of a search's documents and of an answer."""


def gain_of(row: trajectories.Rollout) -> GainInputs:
    """Return rows of the size that a rollout's searches give: each ends with an observation and a short answer."""
    at = [p - len(row.prompt_ids) + 1 for r in row.teacher.rows for p in r.student_positions]
    ends = [token + 1 for token, following in zip(at, [*at[1:], -1], strict=True) if following != token + 1]
    inputs = GainInputs([], [], [])
    for end in ends:
        ids = [*row.prompt_ids, *row.response_ids[:end], *[5] * (OBSERVATION + ANSWER)]
        inputs.rows.extend([ids] * (1 + RANDOM_DOCUMENTS))
        inputs.positions.extend([[*range(len(ids) - ANSWER - 1, len(ids) - 1)]] * (1 + RANDOM_DOCUMENTS))
        inputs.spans.append((end - 1, end))
    return inputs


def update_seconds(workers: actor.Actor, rows: Sequence[trajectories.Rollout], method: str) -> float:
    """Return the process's seconds of one update."""
    alpha, changes = METHODS[method]
    config = SDSearchConfig(alpha=alpha, **changes)
    workers.actor.loss_fn.config = config
    batch = actor.batch_of(rows, alpha)
    batch["old_log_probs"] = batch["ref_log_prob"] = nested(
        [torch.full((len(row.response_ids),), -7.0) for row in rows]
    )
    if config.information_gain:
        packed = [pack_gain(gain_of(row)) for row in rows]
        for name in packed[0]:
            batch[name] = nested([fields[name] for fields in packed])
    start = floor.now("cpu")
    workers.actor.update_actor(batch)
    return floor.now("cpu") - start


def main(argv: Sequence[str] | None = None) -> list[dict[str, object]]:
    """Measure, print, write; return the rows."""
    parser = command_parser(__doc__)
    add_option(parser, "--repeats", 5, "updates of each method", "TURNS")
    parser.add_argument(
        "--csv",
        type=Path,
        default=Path(__file__).with_suffix(".csv"),
        metavar="FILE",
        help="table to write (default: method.csv beside this program)",
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    shape = TIMED["tiny"]
    groups = trajectories.draw_groups(trajectories.LENGTHS, 1, 5, seed=0)
    rows = trajectories.rollouts(groups, shape.vocab, seed=0)
    workers = actor.Actor(shape, actor.Setting("cpu", "fp32"), len(rows))
    found: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in tqdm(range(options.repeats + 1), disable=None):
        for method, seconds in found.items():
            taken = update_seconds(workers, rows, method)
            if turn:  # the first starts caches
                seconds.append(taken)
    table = [_row(method, found) for method in METHODS]
    write_rows(options.csv, table)
    print(options.csv.read_text())
    return table


def _row(method: str, found: dict[str, list[float]]) -> dict[str, object]:
    row: dict[str, object] = {
        "device": device_name("cpu"),
        "method": method,
        "turns": len(found[method]),
        "update_s": round(statistics.median(found[method]), 3),
    }
    for other in ("grpo", "sd"):
        ratios = [a / b for a, b in zip(found[method], found[other], strict=True)]
        low, middle, high = quartiles(ratios)
        row |= {f"ratio_to_{other}": round(middle, 3), f"ratio_to_{other}_q25": round(low, 3)}
        row |= {f"ratio_to_{other}_q75": round(high, 3)}
    return row


if __name__ == "__main__":
    main()
