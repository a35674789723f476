"""Check the simulation of :mod:`.sim` against the runs of :mod:`.delay` on a CPU.

The machine is taken from each pair's synchronous run: turns from its traces, times of update and hand-over from its
metrics, and the time of a token, between 0.5 ms and 0.5 s, with which the simulated synchronous steps come nearest to
the measured ones. What is checked is the colocated mode's time, of which nothing was used. Writes
``benchmarks/asynchronous/check.csv``.

    python -m benchmarks.asynchronous.check --runs runs/delay
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_option, command_parser
from benchmarks.asynchronous.delay import FACTOR, PARTS
from benchmarks.asynchronous.delay import OUT as MEASURED
from benchmarks.asynchronous.rollouts import Machine
from benchmarks.asynchronous.sim import simulate
from benchmarks.table import read_json_lines, read_rows, write_rows

OUT = Path(__file__).with_suffix(".csv")
QUESTIONS, SEEDS = 8, 10


def machine_of(folder: Path, delay: float, slow: float) -> Machine:
    """Return the machine of a synchronous run whose queries were held for ``delay`` seconds."""
    steps, traces = (read_json_lines(folder / name) for name in ("metrics.jsonl", "traces.jsonl"))
    sync = statistics.mean(step["timing_s/update_weights"] for step in steps)
    parts = [f"timing_s/{part}" for part in PARTS if part not in ("gen", "update_weights")]
    update = statistics.mean(sum(step[part] for part in parts) for step in steps)
    return Machine(
        gpus=1,
        questions=QUESTIONS,
        replicas=64,
        train_s_per_rollout=update / (5 * QUESTIONS),
        sync_s=sync,
        batch_s=0.0,
        slow=slow,
        slow_factor=FACTOR,
        turns=tuple(turns_of(trace) for trace in traces),
        latency_s=((0.0, delay), (1.0, delay)),
    )


def turns_of(trace: dict[str, Any]) -> tuple[int, ...]:
    """Return the tokens of each turn of the policy."""
    runs = [(wrote, len(list(run))) for wrote, run in groupby(trace["mask"])]
    return tuple(length for wrote, length in runs if wrote)


def mean_step(mode: str, machine: Machine) -> float:
    """Return the simulated seconds of a step, over seeds."""
    return statistics.mean(simulate(mode, machine, seed)["step_s"] for seed in range(SEEDS))


def fitted(machine: Machine, step_s: float) -> Machine:
    """Return the machine with the time of a token with which a synchronous step takes ``step_s``."""
    low, high = 0.0005, 0.5
    for _ in range(14):
        middle = (low * high) ** 0.5
        slower = mean_step("sync", replace(machine, token_s=middle)) > step_s
        low, high = (low, middle) if slower else (middle, high)
    return replace(machine, token_s=low)


def main() -> None:
    """Compare measured and simulated ratios, pair by pair."""
    parser = command_parser(__doc__)
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="folder of the measured runs")
    add_option(parser, "--slow", 0.05, "share of late queries in those runs", "SHARE")
    args = parser.parse_args()
    measured: dict[str, dict[str, dict[str, str]]] = {}
    for row in read_rows(MEASURED):
        measured.setdefault(row["pair"], {})[row["mode"]] = row
    rows = []
    for pair, modes in measured.items():
        if len(modes) < 2:
            continue
        steps = {mode: float(row["seconds"]) / int(row["steps"]) for mode, row in modes.items()}
        machine = machine_of(args.runs / f"sync-{pair}", float(modes["sync"]["delay_s"]), args.slow)
        machine = fitted(machine, steps["sync"])
        figures = {
            "sync_s": steps["sync"],
            "token_s": machine.token_s,
            "colocate_measured_s": steps["colocate_async"],
            "colocate_simulated_s": mean_step("colocate_async", machine),
        }
        rows.append(
            {"pair": pair, "device": modes["sync"]["device"]}
            | {name: f"{value:.4f}" for name, value in figures.items()}
        )
        print(rows[-1], flush=True)
    write_rows(OUT, rows)


if __name__ == "__main__":
    main()
