"""``python -m benchmarks.world``: the reference on one seed, arms against each other, or plots of that."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import add_option
from benchmarks.world import acceptance
from benchmarks.world.arms import ARMS, BASELINE
from benchmarks.world.compare import compare, read_csv, write_csv
from benchmarks.world.config import TrainConfig
from benchmarks.world.experiment import EvaluationRow, run
from benchmarks.world.from_runs import read_stack_runs
from benchmarks.world.plot import plot_learning, plot_oracle
from benchmarks.world.summary import summarize, table
from sd_search_verl.cli_options import add_options, given_options, read_options
from sd_search_verl.command_line import Parser, add_command, run_command
from sd_search_verl.errors import UserError
from sd_search_verl.files import check_writable
from sd_search_verl.world.config import CHECKPOINT

ARMS_HELP = "\n".join(f"  {name:18} {arm.about}" for name, arm in ARMS.items())


def parser() -> Parser:
    """Return the parser of all sub-commands."""
    root = Parser(
        prog="python -m benchmarks.world",
        description="SD-Search against GRPO and controls in the synthetic world.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"arms:\n{ARMS_HELP}",
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    one = add_command(commands, "run", "one arm on one seed, in plain PyTorch on one core", _run)
    one.add_argument(
        "arm", choices=ARMS, metavar="ARM", help="see the list in `python -m benchmarks.world --help`"
    )
    add_options(one, TrainConfig, ["seed"])
    one.add_argument("--out", type=Path, help="write the evaluations here as CSV (default: not written)")
    _add_training(one)

    many = add_command(commands, "compare", "arms times seeds, paired; resumes after interruption", _compare)
    many.add_argument("arms", nargs="*", metavar="ARM", help=f"{BASELINE} is the baseline")
    many.add_argument(
        "--seeds", metavar="N[-M]", help="for instance 100-105 (default: the preset's, none without --preset)"
    )
    many.add_argument(
        "--preset",
        choices=["acceptance"],
        help="in place of arms: a warm start of its own, 12 paired seeds and all controls; exit code 1 when "
        "a criterion is missed (default: none)",
    )
    many.add_argument(
        "--start-seed",
        type=int,
        metavar="SEED",
        help=f"of the preset's warm start (seed, default: {acceptance.START.seed})",
    )
    many.add_argument("--out", type=Path, default=Path("runs/world"), help="default: %(default)s")
    many.add_argument("--csv", type=Path, help="write all evaluations here as CSV (default: not written)")
    add_option(many, "--jobs", 1, "runs at a time", "RUNS")
    _add_training(many)

    plot = add_command(commands, "plot", "table and curves of a comparison", _plot)
    plot.add_argument("csv", nargs="+", type=Path, help="written by `compare --csv`")
    plot.add_argument("--out", type=Path, required=True, metavar="PREFIX", help="of the SVG files' names")
    plot.add_argument("--arms", nargs="+", choices=ARMS, metavar="ARM", help="default: all")

    stack = add_command(commands, "from-runs", "the same table from runs of main_ppo", _from_runs)
    stack.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders named <arm>-seed<N>")
    add_option(stack, "--baseline", BASELINE, "", "ARM")
    stack.add_argument("--csv", type=Path, help="write all rows here as CSV (default: not written)")
    return root


TRAINING = ("steps", "questions", "group", "mini_batches", "learning_rate", "evaluate_every")
"""Fields of TrainConfig that are options."""


def _add_training(command: argparse.ArgumentParser) -> None:
    add_options(command, TrainConfig, TRAINING)
    command.add_argument(
        "--alpha", type=float, metavar="WEIGHT", help=f"of every arm but {BASELINE} (default: each arm's own)"
    )
    command.add_argument(
        "--model",
        type=Path,
        default=CHECKPOINT,
        help="from `sd-search world warmstart`; its world is that of the runs (default: shipped)",
    )


def _training(arguments: argparse.Namespace) -> TrainConfig:
    return read_options(arguments, TrainConfig)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.out:
        check_writable(arguments.out)
    rows = run(arguments.arm, _training(arguments), arguments.model, arguments.alpha)
    for row in rows:
        print(
            f"step {row.step:3}  rollouts {row.rollouts:5}  success {row.success:.3f}  "
            f"p(right) {row.p_right:.3f}  teacher {row.teacher_p_right:.3f}  student {row.student_p_right:.3f}"
        )
    if arguments.out:
        write_csv(rows, arguments.out)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    if bool(arguments.preset) == bool(arguments.arms) or not (arguments.preset or arguments.seeds):
        raise UserError("give arms with --seeds, or --preset")
    if arguments.csv:
        check_writable(arguments.csv)
    if arguments.preset:
        return _accept(arguments)
    if arguments.start_seed is not None:
        raise UserError("--start-seed is of a preset's warm start; give --preset, or the start as --model")
    # Seeds outside: an interrupted comparison still has whole pairs.
    runs = [(arm, seed) for seed in _seeds(arguments.seeds) for arm in arguments.arms]
    rows = compare(
        runs, arguments.out, _training(arguments), arguments.jobs, arguments.model, arguments.alpha
    )
    _show(rows, arguments.csv)
    return 0


def _accept(arguments: argparse.Namespace) -> int:
    fixed = list(given_options(arguments, TrainConfig))
    fixed += ["alpha"] * (arguments.alpha is not None) + ["model"] * (arguments.model != CHECKPOINT)
    if fixed:
        raise UserError(f"--preset fixes {', '.join(fixed)}; leave it out, or give arms with --seeds")
    started = os.times()
    seed = acceptance.START.seed if arguments.start_seed is None else arguments.start_seed
    start = acceptance.start(arguments.out, seed)
    seeds = _seeds(arguments.seeds) if arguments.seeds else acceptance.SEEDS
    rows = compare(
        acceptance.plan(seeds), arguments.out, acceptance.CONFIG, arguments.jobs, start, acceptance.ALPHA
    )
    _show(rows, arguments.csv)
    found = acceptance.criteria(rows)
    used = sum(os.times()[:4]) - sum(started[:4])  # of this process and of those it waited for
    print(
        f"\n{acceptance.verdict(found)}\n\n{used / 60:.1f} minutes of process time, less what was found done"
    )
    return 0 if all(c.met for c in found) else 1


def _plot(arguments: argparse.Namespace) -> int:
    shown = arguments.arms or ARMS
    rows = [row for path in arguments.csv for row in read_csv(path) if row.arm in shown]
    for name, draw in (("learning", plot_learning), ("oracle", plot_oracle)):
        path = Path(f"{arguments.out}_{name}.svg")
        draw(rows, path)
        print(path)
    _show(rows)
    return 0


def _from_runs(arguments: argparse.Namespace) -> int:
    rows = read_stack_runs(arguments.runs)
    _show(rows, arguments.csv, arguments.baseline)
    return 0


def _show(rows: list[EvaluationRow], csv: Path | None = None, baseline: str = BASELINE) -> None:
    """Print the table, and write the rows to a file if there is one."""
    if csv:
        write_csv(rows, csv)
    if any(row.arm == baseline for row in rows):
        print(table(summarize(rows, baseline), baseline))


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    try:
        return list(range(int(first), int(last or first) + 1))
    except ValueError:
        raise UserError(f"--seeds {text!r} must be a number or a range such as 100-105") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    return run_command(parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
