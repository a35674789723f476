"""What SD-Search adds to a training step, alternated with steps without it in one run.

    python -m benchmarks.cost.step_overhead --inputs DIR [--steps 44]

DIR is made by ``sd-search world build``. The trainer asks for finished rollouts every 50 ms: verl's two seconds are
longer than the parts of such a step, and the same in both kinds. Prints the medians and their ratio, and appends a row
to ``benchmarks/cost/step_overhead.csv``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from benchmarks.arguments import add_option
from benchmarks.spread import quartiles
from benchmarks.table import append_rows, read_json_lines
from sd_search_verl.command_line import Parser, run_command
from sd_search_verl.launch.local import LocalRun, run_local

CSV = Path(__file__).resolve().with_suffix(".csv")
REPO = CSV.parents[2]
POLL_S = 0.05  # how often the trainer asks for finished rollouts
SKIP = 4  # first steps of each kind start workers and caches
FIELDS = [
    *("device", "config", "poll_s", "steps", "without_s", "with_s"),
    *("ratio", "ratio_q25", "ratio_q75", "update_ratio"),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = Parser(
        prog="python -m benchmarks.cost.step_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument(
        "--inputs", type=Path, required=True, help="folder with corpus.jsonl, *.parquet and model/"
    )
    add_option(arguments, "--steps", 44, "training steps", "STEPS")
    device = f"CPU, {os.cpu_count()} cores, {platform.machine()}"
    add_option(arguments, "--device", device, "name of this machine in the table")
    arguments.set_defaults(action=_measure)
    return run_command(arguments, argv)


def _measure(options: argparse.Namespace) -> int:
    """Run, measure, print, append."""
    modules = loaded_by_verl("benchmarks.cost.short_poll", "benchmarks.cost.alternate_alpha")
    with modules, tempfile.TemporaryDirectory() as folder:
        job = LocalRun(Path(folder), options.inputs, REPO / "hydra_configs", "cpu_demo", options.steps)
        run_local(job)
        steps = read_json_lines(Path(folder) / "metrics.jsonl")
    row = {"device": options.device, "config": job.config, "poll_s": POLL_S, **compare(steps[SKIP:])}
    print(json.dumps(row, indent=2))
    append_rows(CSV, [row], FIELDS)
    return 0


@contextmanager
def loaded_by_verl(*modules: str) -> Iterator[None]:
    """Let all processes of verl that are started in this context load these modules."""
    paths = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
    with patch.dict(os.environ, {"VERL_USE_EXTERNAL_MODULES": ",".join(modules), "PYTHONPATH": paths}):
        yield


def compare(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return medians of step time with and without alpha, their ratio, and quartiles of neighbouring steps' ratios."""
    on = [step for step in steps if step["sd_search/alpha"] > 0]
    off = [step for step in steps if step["sd_search/alpha"] == 0]
    pairs = list(zip(on, off, strict=False))
    ratios = [a["timing_s/step"] / b["timing_s/step"] for a, b in pairs]
    q25, _, q75 = quartiles(ratios)
    with_s, without_s = (statistics.median(step["timing_s/step"] for step in kind) for kind in (on, off))
    update = [_actor(a) / _actor(b) for a, b in pairs]
    values = {
        "without_s": without_s,
        "with_s": with_s,
        "ratio": with_s / without_s,
        "ratio_q25": q25,
        "ratio_q75": q75,
        "update_ratio": statistics.median(update),
    }
    return {"steps": len(steps), **{name: round(value, 4) for name, value in values.items()}}


def _actor(step: dict[str, float]) -> float:
    """Return the seconds of the actor's work in a step and of its preparation."""
    parts = ("timing_s/old_log_prob", "timing_s/update_actor", "timing_s/sd_search_prepare")
    return sum(step.get(part, 0.0) for part in parts)


if __name__ == "__main__":
    sys.exit(main())
