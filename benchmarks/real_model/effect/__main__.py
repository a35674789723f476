"""GRPO against SD-Search on real questions: ``python -m benchmarks.real_model.effect COMMAND``.

``prepare DATA MODEL`` writes index, groups of rollouts and starting policies; ``run DATA --arms A B --seeds 1 2`` makes
the runs that are not done; ``table`` compares arms in pairs of seeds and writes ``benchmarks/real_model/effect.csv``;
``cost DATA`` times updates.
All of it lies in ``--out``. With ``--device cuda`` the same runs take a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.arguments import add_option
from benchmarks.machine import device_name
from benchmarks.real_model.effect.compare import compare, read_results
from benchmarks.real_model.effect.cost import cost
from benchmarks.real_model.effect.prepare import load, prepare
from benchmarks.real_model.effect.runs import Held, Plan, arms, held_out, run, write
from benchmarks.table import write_rows
from sd_search_verl.command_line import Parser, add_command, run_command

PLAN = Plan(steps=6, learning_rate=3e-5)
ALPHA = 1.0
ARMS = ("grpo_lessons", "sd_lessons")
SEEDS = (1, 2, 3, 4)


def _prepare(options: argparse.Namespace) -> int:
    prepare(options.data, options.model, options.out, options.device)
    return 0


def _run(options: argparse.Namespace) -> int:
    plan = Plan(options.steps, options.learning_rate, options.reward)
    chosen, held = arms(options.alpha), held_out(options.out, options.data)
    results = options.out / options.results
    for start in sorted({arm.start for arm in chosen.values()}):
        path = options.out / f"before-{start}.json"
        if not path.exists():
            write(path, {"after": held.margins(*load(options.out / start, options.device, torch.bfloat16))})
    for seed in options.seeds:
        for name in options.arms:
            path, folder = results / f"{name}-{seed}.json", results / f"{name}-{seed}"
            if not path.exists():
                print(f"{name}, seed {seed}", flush=True)
                found = run(chosen[name], seed, plan, held, options.out, folder, options.device)
                found |= {"plan": vars(plan), "alpha": chosen[name].method.alpha}
                write(path, found | {"device": device_name(options.device)})
    if not options.without_greedy:
        folders = {
            path: options.out / path.stem.removeprefix("before-")
            for path in options.out.glob("before-*.json")
        }
        folders |= {path: path.with_suffix("") for path in results.glob("*.json")}
        for path, folder in folders.items():
            _score(path, folder, held, options)
    return 0


def _score(path: Path, folder: Path, held: Held, options: argparse.Namespace) -> None:
    """Add the scores of greedy rollouts to a result that lacks them."""
    found = json.loads(path.read_text())
    if ("em" if options.answers else "gold") not in found["after"]:
        found["after"] |= held.greedy(*load(folder, options.device, torch.bfloat16), options.answers)
        write(path, found)
        print(f"{path.stem}: greedy rollouts scored", flush=True)


def _table(options: argparse.Namespace) -> int:
    results = read_results(options.out / options.results)
    before = {
        path.stem.partition("-")[2]: json.loads(path.read_text())
        for path in options.out.glob("before-*.json")
    }
    devices = ", ".join(sorted({run["device"] for seeds in results.values() for run in seeds.values()}))
    rows = [{"device": devices, **row} for row in compare(results, before, arms(ALPHA))]
    write_rows(options.csv, rows)
    for row in rows:
        print(" ".join(f"{value:+.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    return 0


def _cost(options: argparse.Namespace) -> int:
    found = cost(options.out, held_out(options.out, options.data), options.device, options.rounds)
    for name, one in found.items():
        print(
            f"{name}: {one['s']:.2f} s, {one['ratio']:.2f} [{one['low']:.2f}, {one['high']:.2f}] times GRPO's"
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    torch.set_num_threads(1)
    parser = Parser(prog="python -m benchmarks.real_model.effect", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = add_command(commands, "prepare", "write index, groups and starting policies", _prepare)
    one.add_argument("data", type=Path, help="folder of questions, trajectories and corpus")
    one.add_argument("model", type=Path, help="folder that `sd-search model smollm2` wrote")
    two = add_command(commands, "run", "train and measure", _run)
    two.add_argument("data", type=Path, help="folder of questions, trajectories and corpus")
    two.add_argument(
        "--arms",
        nargs="+",
        default=ARMS,
        choices=[*arms(ALPHA)],
        metavar="ARM",
        help="(default: %(default)s)",
    )
    add_option(two, "--seeds", SEEDS, "", "SEED")
    add_option(two, "--steps", PLAN.steps, "", "STEPS")
    add_option(two, "--alpha", ALPHA, "", "ALPHA")
    add_option(two, "--learning-rate", PLAN.learning_rate, "", "RATE")
    two.add_argument("--reward", choices=("gold", "f1"), default=PLAN.reward, help="(default: %(default)s)")
    two.add_argument("--without-greedy", action="store_true", help="leave gold-in-documents for later")
    two.add_argument("--answers", action="store_true", help="score EM and F1 too, by a second turn")
    three = add_command(commands, "table", "compare finished runs", _table)
    add_option(three, "--csv", Path("benchmarks/real_model/effect.csv"), "file to write")
    four = add_command(commands, "cost", "time updates with each teacher, alternated", _cost)
    four.add_argument("data", type=Path, help="folder of questions, trajectories and corpus")
    add_option(four, "--rounds", 5, "", "ROUNDS")
    for command in (one, two, three, four):
        add_option(command, "--out", Path("runs/effect"), "folder")
        add_option(command, "--results", "results", "folder in it with the runs")
        command.add_argument(
            "--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)"
        )
    return run_command(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
