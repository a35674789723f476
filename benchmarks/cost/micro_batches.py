"""Host time in which verl cuts a mini-batch into micro-batches: GRPO's, and with the method's fields or slots alone.

    python -m benchmarks.cost.micro_batches

Rollouts of recorded lengths, dynamic batches, one thread; the three take turns. Appends to ``micro_batches.csv``:
medians and quartiles of the process's seconds. ``all fields`` leaves in what the driver sent, as the update once did.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from verl.utils import tensordict_utils as tu
from verl.workers.engine.utils import prepare_micro_batches

from benchmarks.arguments import add_option, command_parser
from benchmarks.cost import actor, trajectories
from benchmarks.machine import device_name
from benchmarks.spread import quartiles
from benchmarks.table import append_rows
from sd_search_verl.verl_adapter.fields import SLOTS, TeacherMiniBatch

CSV = Path(__file__).with_suffix(".csv")
SIZES = ((16, 8192), (4, 4096))
"""Questions of five rollouts, and tokens a micro-batch, of the GPU runs at the 3B and the 7B shape."""


def batches(questions: int, budget: int) -> dict[str, Any]:
    """Return the mini-batch of each arm."""
    groups = trajectories.draw_groups(trajectories.LENGTHS, questions, 5, seed=0)
    rows = trajectories.rollouts(groups, 2048, seed=0)
    plain, sent = actor.batch_of(rows, 0.0), actor.batch_of(rows, 1.0e-3)
    slots = TeacherMiniBatch.read(sent).with_slots(sent)
    sent[SLOTS] = slots[SLOTS]
    arms = {"GRPO": plain, "all fields": sent, "slots": slots}
    for batch in arms.values():
        tu.assign_non_tensor(batch, use_dynamic_bsz=True, max_token_len_per_gpu=budget, sp_size=1)
    return arms


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, append."""
    parser = command_parser(__doc__)
    add_option(parser, "--rounds", 20, "measured rounds, in which every arm has its turn", "ROUNDS")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    for questions, budget in SIZES:
        arms = batches(questions, budget)
        found: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(options.rounds + 2):  # two rounds warm up
            for name, batch in arms.items():
                start = time.process_time()
                cut, _ = prepare_micro_batches(batch, dp_group=None)
                found[name].append(time.process_time() - start)
        for name, (_, _, *seconds) in found.items():
            low, median, high = (1e3 * value for value in quartiles(seconds))
            row = {
                "device": device_name("cpu"),
                "rollouts": 5 * questions,
                "micro_batches": len(cut),
                "arm": name,
                "rounds": options.rounds,
                "cpu_ms": round(median, 1),
                "q25": round(low, 1),
                "q75": round(high, 1),
                "of_grpo": round(median / 1e3 / statistics.median(found["GRPO"][2:]), 2),
            }
            print(row)
            append_rows(CSV, [row])


if __name__ == "__main__":
    main()
