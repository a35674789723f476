"""Probe a policy on recorded groups of real questions, or on the synthetic world's, and add its row to a CSV.

``python -m benchmarks.real_model.probe MODEL --data DIR`` reads ``trajectories_nq.jsonl.gz``: half of its questions are
for tuning, the other half is held out. Without ``--data`` the rollouts are sampled from MODEL in the synthetic world.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from benchmarks.arguments import add_option
from benchmarks.machine import device_name
from benchmarks.table import append_rows
from sd_search_verl.command_line import Parser, run_command
from sd_search_verl.probe.config import ProbeConfig
from sd_search_verl.probe.run import Probe, probe, table

SEED = 11
NAMES = ("label_sensitivity", "copy_share", "sign_accuracy", "leave_one_out_gain")


def run(options: argparse.Namespace) -> int:
    """Probe, print the result and add the row."""
    with tempfile.TemporaryDirectory() as folder:
        traces = Path(folder) / "traces.jsonl"
        lines = _recorded(options.data, options.half) if options.data else _sampled(options.model)
        traces.write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = probe(Probe(options.model, ProbeConfig(groups=options.groups, conditions="needed"), traces))
    print(table(found))
    row: dict[str, object] = {
        "model": options.name or options.model.name,
        "rollouts": options.half if options.data else "world",
        "block": "default",
    }
    append_rows(
        options.csv,
        [row | columns({name: found[name] for name in NAMES}, found["verdict"], found["device"])],
    )
    return 0


def columns(
    numbers: Mapping[str, Mapping[str, float | None]], verdict: str, device: str
) -> dict[str, object]:
    """Return mean, bounds and n of each number, the verdict and the device as columns of a row."""
    found: dict[str, object] = {
        f"{name}_{key}": None if value is None else round(value, 4)
        for name, number in numbers.items()
        for key, value in number.items()
    }
    return found | {"verdict": verdict, "device": device_name(device)}


def _recorded(data: Path, half: str) -> list[dict[str, object]]:
    with gzip.open(data / "trajectories_nq.jsonl.gz", "rt") as file:
        lines = [json.loads(line) for line in file]
    questions = list(dict.fromkeys(line["question"] for line in lines))
    Random(0).shuffle(questions)
    middle = len(questions) // 2
    place = {q: i for i, q in enumerate(questions[:middle] if half == "tuning" else questions[middle:])}
    chosen = [line for line in lines if line["question"] in place]
    return sorted(chosen, key=lambda line: place[line["question"]])


def _sampled(model: Path) -> list[dict[str, object]]:
    from transformers import AutoTokenizer

    from sd_search_verl.world import World, questions
    from sd_search_verl.world.files import difficulty
    from sd_search_verl.world.model import load_model
    from sd_search_verl.world.sampling import rollouts

    world = World(difficulty(model).replace(seed=SEED))
    asked = [question for question in questions(world, "train")[:120] for _ in range(5)]
    found = rollouts(load_model(model), AutoTokenizer.from_pretrained(model), world, asked, seed=5)
    return [
        {
            "question": rollout.prompt.group,
            "prompt": rollout.prompt.messages,
            "golden_answers": list(rollout.prompt.golden_answers),
            "response": rollout.response,
        }
        for rollout in found
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser(prog="python -m benchmarks.real_model.probe", description=__doc__)
    parser.add_argument("model", type=Path, help="Hugging Face folder")
    parser.add_argument("--name", help="name of the row (default: the folder's)")
    parser.add_argument(
        "--data", type=Path, help="folder of the recorded trajectories (default: the synthetic world)"
    )
    parser.add_argument(
        "--half", choices=("tuning", "held_out"), default="tuning", help="questions (default: %(default)s)"
    )
    parser.add_argument("--groups", type=int, metavar="GROUPS", help="groups to score (default: all)")
    add_option(parser, "--csv", Path("benchmarks/real_model/probe.csv"), "file to add to")
    parser.set_defaults(action=run)
    return run_command(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
