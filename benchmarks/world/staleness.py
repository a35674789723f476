"""What rollouts of older weights cost the method: the synthetic world with every rollout k versions old.

In an asynchronous step some tokens are older than the policy; here all of them are, without importance weights, and the
teacher is the policy of the moment. ``python -m benchmarks.world.staleness`` appends to ``staleness.csv`` beside this
file what is missing there, and prints the differences to staleness 0 with paired seeds.
"""

from __future__ import annotations

import copy
import statistics
from collections import deque
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_option, command_parser
from benchmarks.table import append_rows, read_rows
from benchmarks.world import experiment
from benchmarks.world.config import TrainConfig
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.world.sampling import rollouts

OUT = Path(__file__).with_suffix(".csv")
COLUMNS = ("rollouts", "success", "p_right", "cpu_s")
"""Of the last evaluation of a run."""


class OlderWeights:
    """Samples from the weights of ``versions`` updates ago; from the first ones until there are that many."""

    def __init__(self, versions: int) -> None:
        self._models: deque[Any] = deque(maxlen=versions + 1)

    def __call__(self, model: Any, *args: Any, **options: Any) -> list[Rollout]:
        self._models.append(copy.deepcopy(model))
        return rollouts(self._models[0], *args, **options)


def main() -> None:
    """Run what is missing."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "--arms", nargs="+", default=["sd"], metavar="ARM", help="arms to run (default: %(default)s)"
    )
    add_option(parser, "--staleness", [0, 1, 4], "ages of the weights that sample, 0 first", "VERSIONS")
    add_option(parser, "--seeds", [0, 1, 2, 3], "seeds of the runs", "SEED")
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="FILE",
        help="table to add to (default: staleness.csv beside this program)",
    )
    args = parser.parse_args()
    rows = read_rows(args.out) if args.out.exists() else []
    for seed, arm, versions in product(args.seeds, args.arms, args.staleness):
        key = {"arm": arm, "staleness": str(versions), "seed": str(seed)}
        if any(key.items() <= row.items() for row in rows):
            continue
        last = experiment.run(arm, TrainConfig(seed=seed), sample=OlderWeights(versions))[-1]
        rows.append(key | {"device": last.device} | {name: f"{getattr(last, name):.6g}" for name in COLUMNS})
        append_rows(args.out, [rows[-1]])
        print(rows[-1], flush=True)
    for arm, versions in product(args.arms, args.staleness[1:]):
        if found := differences(rows, arm, versions):
            print(arm, versions, [round(value, 4) for value in found], round(statistics.mean(found), 4))


def differences(rows: list[dict[str, str]], arm: str, versions: int) -> list[float]:
    """Return p(right phrasing) at this staleness less that at staleness 0, for each seed that has both."""
    found = {(row["staleness"], row["seed"]): float(row["p_right"]) for row in rows if row["arm"] == arm}
    seeds = sorted({seed for _, seed in found})
    whole = [seed for seed in seeds if {("0", seed), (str(versions), seed)} <= found.keys()]
    return [found[str(versions), seed] - found["0", seed] for seed in whole]


if __name__ == "__main__":
    main()
