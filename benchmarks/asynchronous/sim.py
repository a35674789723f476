"""Simulate training steps of the three trainer modes on 8 to 512 GPUs, with the retriever as a queue that all share.

``python -m benchmarks.asynchronous.sim`` writes ``benchmarks/asynchronous/sim.csv`` and the table of docs/async.md.
Nothing is run (see :mod:`.rollouts`), so ratios between modes and the number of replicas are the result, not seconds.

    sampling     the trainer looks every ``poll_s`` whether enough questions are complete, as verl's does
    update       train_s_per_rollout * rollouts / GPUs, during which colocated rollouts pause
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from benchmarks.arguments import add_option, command_parser
from benchmarks.asynchronous.rollouts import SERVICE_S, Machine, Simulation
from benchmarks.table import read_rows, write_rows

OUT = Path(__file__).with_suffix(".csv")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "async.md"
_BEGIN, _END = "<!-- table: made by benchmarks/asynchronous/sim.py -->", "<!-- end of table -->"
MODES = ("sync", "colocate_async", "separate_async")
STEPS, SKIPPED = 8, 2
TOLERANCE = 1.05


def simulate(mode: str, machine: Machine, seed: int = 0) -> dict[str, float]:
    """Return the mean time of a step, staleness in versions, and the retrievers' load, after the first steps."""
    batch = machine.questions
    separate = mode == "separate_async"
    rollout_gpus = max(1, round(machine.gpus * machine.rollout_share)) if separate else machine.gpus
    train_gpus = machine.gpus - rollout_gpus if separate else machine.gpus
    train = machine.train_s_per_rollout * batch * machine.group / max(1, train_gpus)
    world = Simulation(machine, rollout_gpus, seed)
    ends: list[float] = []
    staleness: list[int] = []
    if mode != "sync":
        world.submit(batch * machine.warmup)
    for step in range(1, STEPS + 1):
        world.step = step
        world.submit(batch)
        looked = world.now
        world.run(lambda: len(world.complete) >= batch)
        world.run(lambda: False, looked + math.ceil((world.now - looked) / machine.poll_s) * machine.poll_s)
        sampled = sorted(world.complete, key=world.begun.__getitem__)[:batch]
        world.complete = [question for question in world.complete if question not in set(sampled)]
        staleness += [step - max(world.begun[question], 1) for question in sampled]
        begin = world.now
        if separate:
            world.run(lambda: False, begin + train)
            begin = world.now
        world.pause(True)
        world.run(lambda: False, begin + machine.sync_s + (0.0 if separate else train))
        world.pause(False)
        ends.append(world.now)
    waits = sorted(world.waits)
    busy = len(waits) * SERVICE_S * machine.service_factor * (1 + machine.slow * (machine.slow_factor - 1))
    return {
        "step_s": (ends[-1] - ends[SKIPPED - 1]) / (STEPS - SKIPPED),
        "train_s": train,
        "staleness_mean": sum(staleness[SKIPPED * batch :]) / len(staleness[SKIPPED * batch :]),
        "wait_s_p99": waits[int(0.99 * (len(waits) - 1))] if waits else 0.0,
        "retriever_load": busy / (len(world.free) * world.now),
    }


def best_share(machine: Machine) -> Machine:
    """Return the machine with the share of GPUs for rollouts whose steps are shortest."""
    shares = [share for share in (0.125, 0.25, 0.375, 0.5, 0.625, 0.75) if machine.gpus * share >= 1]
    tried = [replace(machine, rollout_share=share) for share in shares]
    return min(tried, key=lambda tried: simulate("separate_async", tried)["step_s"])


def enough_replicas(mode: str, machine: Machine) -> int:
    """Return the smallest power of two of replicas with a step at most ``TOLERANCE`` times that of 1,024."""
    bound = TOLERANCE * simulate(mode, replace(machine, replicas=1024))["step_s"]
    count = 1
    while count < 1024 and simulate(mode, replace(machine, replicas=count))["step_s"] > bound:
        count *= 2
    return count


def main() -> None:
    """Write the table."""
    parser = command_parser(__doc__)
    add_option(parser, "--gpus", [8, 32, 128, 512], "sizes of the machine", "GPUS")
    costs = "service times of a query, as multiples of BM25's"
    add_option(parser, "--service-factor", [1.0, 100.0], costs, "TIMES")
    add_option(parser, "--slow", [0.0, 0.05], "shares of late queries", "SHARE")
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="FILE",
        help="table to write (default: sim.csv beside this program)",
    )
    args = parser.parse_args()
    rows = []
    for gpus, factor, slow in product(args.gpus, args.service_factor, args.slow):
        machine = Machine(gpus=gpus, service_factor=factor, slow=slow)
        for mode in MODES:
            if mode == "separate_async":
                machine = best_share(replace(machine, replicas=1024))
            needed = enough_replicas(mode, machine)
            for replicas in sorted({1, needed}):
                one = replace(machine, replicas=replicas)
                found = {name: round(value, 4) for name, value in simulate(mode, one).items()}
                simulated = asdict(replace(one, turns=(), latency_s=()))
                rows.append(
                    {
                        "mode": mode,
                        "device": "none: simulated",
                        **simulated,
                        **found,
                        "replicas_needed": needed,
                    }
                )
                print(mode, gpus, factor, slow, replicas, found, flush=True)
    write_rows(args.out, rows)
    if args.out == OUT:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), OUT), encoding="utf-8")


def page(text: str, path: Path) -> str:
    """Return the page with its table replaced by that of a CSV: each mode with the replicas that it needs."""
    rows = [row for row in read_rows(path) if row["replicas"] == row["replicas_needed"]]
    cases: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        cases.setdefault((row["gpus"], row["service_factor"], row["slow"]), {})[row["mode"]] = row
    lines = [
        "| GPUs | cost of a query | late queries | sync | colocated | separate | replicas: sync, colocated, separate |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (gpus, factor, slow), modes in cases.items():
        seconds = [f"{float(modes[mode]['step_s']):.1f} s" for mode in MODES]
        replicas = ", ".join(modes[mode]["replicas"] for mode in MODES)
        cells = [gpus, f"{float(factor) * SERVICE_S * 1000:.2g} ms", f"{float(slow):.0%}", *seconds, replicas]
        lines.append(f"| {' | '.join(cells)} |")
    head, _, rest = text.partition(_BEGIN)
    return f"{head}{_BEGIN}\n\n{chr(10).join(lines)}\n\n{_END}{rest.partition(_END)[2]}"


if __name__ == "__main__":
    main()
