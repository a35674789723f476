"""Time of whole training steps in tool calls and in tags: runs of the demo that alternate.

    sd-search world build --out DIR/search_r1
    sd-search world build --out DIR/tool_call --protocol tool_call
    python -m benchmarks.protocol_step --inputs DIR [--rounds 2] [--steps 14]

Every run is verl's ``main_ppo`` with Ray, vLLM, FSDP2 and the retrieval server. Appends a row per protocol to
``protocol_step.csv``: medians over the steps with SD-Search, and of the ratios to the step of the same number in the
run in tags before; ``cpu_s`` is the CPU time of all processes in a step, which other load on the machine disturbs less.
DIR keeps the runs, and a finished one is read again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import sub
from pathlib import Path
from threading import Event, Thread
from typing import Any
from unittest.mock import patch

import psutil

from benchmarks.table import append_rows
from sd_search_verl.launch.local import LocalRun, run_local

HERE = Path(__file__).resolve().parent
DEVICE = f"CPU, {os.cpu_count()} shared cores"
TAGS, CALLS = "search_r1", "tool_call"
SKIP = 4
"""First steps of a run: they start workers and caches, and have no teacher."""
RATIOS = ("step_s", "cpu_s", "cpu_ms_per_token", "cpu_ms_per_sampled_token")


def main(argv: Sequence[str] | None = None) -> None:
    """Run, measure, print, append."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=Path, required=True, metavar="DIR", help="with a world per protocol")
    parser.add_argument(
        "--rounds", type=int, default=2, metavar="ROUNDS", help="runs of each protocol (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=14, metavar="STEPS", help="of a run (default: %(default)s)"
    )
    parser.add_argument("--device", default=DEVICE, help="name of this machine (default: %(default)s)")
    options = parser.parse_args(argv)
    measured: dict[str, list[dict[str, float]]] = {TAGS: [], CALLS: []}
    for number in range(options.rounds):
        for protocol, steps in measured.items():
            steps += run(options.inputs, protocol, number, options.steps)
    for protocol, steps in measured.items():
        row: dict[str, Any] = {"device": options.device, "protocol": protocol, "steps": len(steps)}
        row |= {name: round(statistics.median(step[name] for step in steps), 4) for name in steps[0]}
        for name in RATIOS:
            ratios = [step[name] / tags[name] for step, tags in zip(steps, measured[TAGS], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            values = {"of_tags": middle, "q25": low, "q75": high}
            row |= {f"{name}_{which}": round(value, 3) for which, value in values.items()}
        print(json.dumps(row, indent=2))
        append_rows(Path(__file__).with_suffix(".csv"), [row])


def run(inputs: Path, protocol: str, number: int, steps: int) -> list[dict[str, float]]:
    """Return what the steps of a run took, after :data:`SKIP`."""
    folder = inputs / f"run_{number}_{protocol}"
    if not (folder / "report.html").exists():
        paths = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        variables = {"VERL_USE_EXTERNAL_MODULES": "benchmarks.short_poll", "PYTHONPATH": paths}
        overrides = [f"search.protocol={protocol}"]
        with patch.dict(os.environ, variables), cpu_seconds_by_step(folder):
            configs = HERE.parent / "hydra_configs"
            run_local(LocalRun(folder, inputs / protocol, configs, "cpu_demo", steps, overrides))
    sampled: Counter[int] = Counter()
    for trace in map(json.loads, (folder / "traces.jsonl").read_text().splitlines()):
        sampled[trace["step"]] += sum(trace["mask"])
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    cpu = json.loads((folder / "cpu_s.json").read_text())
    return [
        {
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
        for step, seconds in zip(metrics[SKIP:], map(sub, cpu[SKIP:], cpu[SKIP - 1 :]), strict=True)
    ]


@contextmanager
def cpu_seconds_by_step(folder: Path) -> Iterator[None]:
    """Write ``cpu_s.json``: CPU time of all processes of the run so far, when each step's metrics were written."""
    ended, seconds = Event(), [0.0]

    def watch() -> None:
        path = folder / "metrics.jsonl"
        while not ended.wait(0.1):
            steps = path.read_bytes().count(b"\n") if path.exists() else 0
            if steps >= len(seconds):
                seconds.extend([cpu_seconds()] * (steps + 1 - len(seconds)))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    (folder / "cpu_s.json").write_text(json.dumps(seconds[1:]))


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
