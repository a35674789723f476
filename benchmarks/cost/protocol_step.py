"""Time of whole training steps in tool calls and in tags: runs of the demo at the same time.

    sd-search world build --out DIR/search_r1
    sd-search world build --out DIR/tool_call --protocol tool_call
    python -m benchmarks.cost.protocol_step --inputs DIR [--rounds 2] [--steps 64]

Every run is verl's ``main_ppo`` with Ray, vLLM, FSDP2 and the retrieval server. The arms of a round run together: on a
shared machine, whose speed drifts by half between runs in turn, each then has the same share of it. Appends a row per
arm to ``protocol_step.csv``: medians over its steps with SD-Search while the round's run in tags trained too, and of
the ratios to the median of that run then; ``cpu_s`` is the CPU time of all processes of a run in a step. DIR keeps the
runs, and a finished one is read again.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from multiprocessing import get_context
from operator import sub
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from benchmarks.arguments import add_option, command_parser
from benchmarks.cost.step_overhead import REPO, loaded_by_verl
from benchmarks.spread import quartiles
from benchmarks.table import append_rows, read_json_lines
from sd_search_verl.launch.local import LocalRun, run_local

DEVICE = f"CPU, {os.cpu_count()} shared cores"
TAGS = "search_r1"
ARMS = {
    TAGS: ["search.protocol=search_r1"],
    "tool_call": ["search.protocol=tool_call", "search.tool_call.parallel=false"],
    "tool_call, parallel": ["search.protocol=tool_call", "search.tool_call.parallel=true"],
}
"""What is compared, with its options; calls end a turn as tags do, or the policy samples its end."""
STILL = "actor_rollout_ref.actor.optim.lr=1e-12"
"""Policies that learn soon search more often, or less, than each other."""
SKIP = 4
"""First steps of a run: they start workers and caches, and have no teacher."""
Steps = list[dict[str, float]]
RATIOS = ("step_s", "cpu_s", "cpu_ms_per_token", "cpu_ms_per_sampled_token")


def main(argv: Sequence[str] | None = None) -> None:
    """Run, measure, print, append."""
    parser = command_parser(__doc__)
    parser.add_argument("--inputs", type=Path, required=True, metavar="DIR", help="with a world per protocol")
    add_option(parser, "--rounds", 2, "runs of each protocol", "ROUNDS")
    add_option(parser, "--steps", 64, "of a run", "STEPS")
    add_option(parser, "--device", DEVICE, "name of this machine")
    options = parser.parse_args(argv)
    measured: dict[str, Steps] = {arm: [] for arm in ARMS}
    with ProcessPoolExecutor(len(ARMS), mp_context=get_context("spawn")) as pool:
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}: {options.inputs}/run_{number}_*")
            run_arm = partial(run, options.inputs, number=number, steps=options.steps)
            runs = dict(zip(ARMS, pool.map(run_arm, ARMS), strict=True))
            for arm, steps in runs.items():
                measured[arm] += beside(runs[TAGS], steps)
    for arm, steps in measured.items():
        row: dict[str, Any] = {
            "device": options.device,
            "runs": "at once",
            "protocol": arm,
            "steps": len(steps),
        }
        figures = [name for name in steps[0] if name != "ended" and not name.endswith("_ratio")]
        row |= {name: round(statistics.median(step[name] for step in steps), 4) for name in figures}
        for name in RATIOS:
            low, middle, high = quartiles([step[f"{name}_ratio"] for step in steps])
            values = {"of_tags": middle, "q25": low, "q75": high}
            row |= {f"{name}_{which}": round(value, 3) for which, value in values.items()}
        print(json.dumps(row, indent=2))
        append_rows(Path(__file__).with_suffix(".csv"), [row])


def beside(tags: Steps, steps: Steps) -> Steps:
    """Return the steps of a run while the one in tags trained too, with ratios to the median of that one's then.

    Raises:
        SystemExit: there are hardly any.
    """
    first = max(tags[0]["ended"], steps[0]["ended"])
    last = min(tags[-1]["ended"], steps[-1]["ended"])
    theirs, ours = ([step for step in one if first <= step["ended"] <= last] for one in (tags, steps))
    if min(len(theirs), len(ours)) < 5:
        raise SystemExit("the runs hardly trained at the same time; give more --steps")
    of_tags = {name: statistics.median(step[name] for step in theirs) for name in RATIOS}
    return [step | {f"{name}_ratio": step[name] / of_tags[name] for name in RATIOS} for step in ours]


def run(inputs: Path, arm: str, number: int, steps: int) -> Steps:
    """Return what the steps of a run took, after :data:`SKIP`."""
    folder, world = inputs / f"run_{number}_{arm.replace(', ', '_')}", inputs / arm.partition(",")[0]
    if not (folder / "report.html").exists():
        with (
            folder.with_suffix(".log").open("w") as log,
            redirect_stdout(log),
            redirect_stderr(log),
            loaded_by_verl("benchmarks.cost.short_poll"),
            cpu_seconds_by_step(folder),
        ):
            overrides = [*ARMS[arm], STILL]
            run_local(LocalRun(folder, world, REPO / "hydra_configs", "cpu_demo", steps, overrides))
    sampled: Counter[int] = Counter()
    for trace in read_json_lines(folder / "traces.jsonl"):
        sampled[trace["step"]] += sum(trace["mask"])
    metrics = read_json_lines(folder / "metrics.jsonl")
    ended, cpu = zip(*json.loads((folder / "ends.json").read_text()), strict=True)
    return [
        {
            "ended": at,
            "sampled_tokens": sampled[step["step"]],
            "tokens": step["perf/total_num_tokens"],
            "searches": step["search/searches_per_rollout"],
            "step_s": step["timing_s/step"],
            "gen_s": step["timing_s/gen"],
            "update_s": step["timing_s/update_actor"],
            "cpu_s": seconds,
            "cpu_ms_per_token": 1000 * seconds / step["perf/total_num_tokens"],
            "cpu_ms_per_sampled_token": 1000 * seconds / sampled[step["step"]],
        }
        for step, at, seconds in zip(
            metrics[SKIP:], ended[SKIP:], map(sub, cpu[SKIP:], cpu[SKIP - 1 :]), strict=True
        )
    ]


@contextmanager
def cpu_seconds_by_step(folder: Path) -> Iterator[None]:
    """Write ``ends.json``: when each step's metrics were written, and the run's CPU time, all processes, until then."""
    ended, steps_ended = Event(), list[tuple[float, float]]()

    def watch() -> None:
        path = folder / "metrics.jsonl"
        while not ended.wait(0.1):
            steps = path.read_bytes().count(b"\n") if path.exists() else 0
            if steps > len(steps_ended):
                steps_ended.extend([(time.time(), cpu_seconds())] * (steps - len(steps_ended)))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    (folder / "ends.json").write_text(json.dumps(steps_ended))


def cpu_seconds() -> float:
    """Return the CPU time of all processes that this one has started."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


if __name__ == "__main__":
    main()
