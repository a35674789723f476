"""The methods of the family against each other: each arm at its own best learning rate, on fresh paired seeds.

    python -m benchmarks.world.methods tune usual_5    rates of every arm, on tuning seeds
    python -m benchmarks.world.methods run usual_5     fresh seeds, at the best rates
    python -m benchmarks.world.methods show usual_5    its table, as in docs/comparison.md
    python -m benchmarks.world.methods show            all tables, the bars and the figure

Finished runs are kept, so that each command continues after an interruption. docs/comparison.md has the protocol.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.svg import svg
from benchmarks.table import read_rows, write_rows
from benchmarks.world.arms import BASELINE
from benchmarks.world.compare import cells, compare, row_of
from benchmarks.world.config import TrainConfig
from benchmarks.world.experiment import EvaluationRow
from benchmarks.world.methods_table import FASTER, Rates, markdown, verdict
from benchmarks.world.plot import learning_panels
from benchmarks.world.summary import summarize
from sd_search_verl.command_line import Parser, add_command, run_command
from sd_search_verl.errors import UserError
from sd_search_verl.table import render

HERE = Path(__file__).parent
RATES, RESULT, FIGURE = (
    HERE / "methods_rates.csv",
    HERE / "methods.csv",
    HERE.parents[1] / "docs" / "comparison.svg",
)
METHODS = (
    *(BASELINE, "sd", "llds", "sapo", "sd_llds", "gate", "gate_llds", "advantage"),
    *("best_sibling", "info_gain", "first", "in_turns", "ema"),
)
TUNING_SEEDS, SEEDS = (200, 201, 202), range(500, 508)
KEPT = 2
"""Rates of an arm that run on every tuning seed: the best ones on the first seed."""


@dataclass(frozen=True)
class Setting:
    """A kind of world and a size of groups.

    Attributes:
        start: folder of the warm start, among ``--starts``.
        rates: that are tried.
        config: of every run, but for its seed and learning rate.
    """

    start: str
    rates: tuple[float, ...]
    config: TrainConfig


def _setting(start: str, rates: tuple[float, ...], group: int, questions: int) -> Setting:
    return Setting(start, rates, TrainConfig(steps=28, questions=questions, group=group, mini_batches=2))


SETTINGS = {
    "usual_5": _setting("usual", (7e-4, 1e-3, 1.4e-3, 2e-3, 2.8e-3), group=5, questions=8),
    "usual_2": _setting("usual", (1.4e-3, 2e-3, 2.8e-3), group=2, questions=20),
    "three_hops_5": _setting("three_hops", (7e-4, 1e-3, 1.4e-3), group=5, questions=8),
    "three_hops_2": _setting("three_hops", (7e-4, 1e-3, 1.4e-3), group=2, questions=20),
}
"""40 rollouts a step and two updates, since the regularizers are zero on a step's first one."""

DRAWN = (BASELINE, "sd", "sd_llds", "ema", "llds", "gate", "first")
"""Arms of the figure, in the order of its colours."""


def tune(name: str, starts: Path, arms: Sequence[str] = METHODS) -> list[dict[str, str]]:
    """Return the mean success of arms at rates on the tuning seeds, as rows of ``methods_rates.csv``."""
    setting = SETTINGS[name]
    found: dict[tuple[str, float], list[float]] = {}
    devices: set[str] = set()
    kept = dict.fromkeys(arms, setting.rates)
    for seed in TUNING_SEEDS:
        for rate in setting.rates:
            runs = [(arm, seed) for arm in arms if rate in kept[arm]]
            config = setting.config.replace(learning_rate=rate)
            rows = compare(runs, starts / name / f"{rate:g}", config, checkpoint=starts / setting.start)
            devices |= {row.device for row in rows}
            for arm, _ in runs:
                found.setdefault((arm, rate), []).append(area([row for row in rows if row.arm == arm]))
        if seed == TUNING_SEEDS[0]:
            kept = {
                arm: _best(setting.rates, {rate: found[arm, rate][0] for rate in setting.rates})
                for arm in arms
            }
    return [
        {
            "arm": arm,
            "device": ", ".join(sorted(devices)),
            "learning_rate": f"{rate:g}",
            "seeds": str(len(values)),
            "success": f"{fmean(values):.4f}",
        }
        for (arm, rate), values in sorted(found.items(), key=lambda item: arms.index(item[0][0]))
    ]


def _best(rates: Sequence[float], success: Mapping[float, float]) -> tuple[float, ...]:
    return tuple(sorted(rates, key=lambda rate: -success[rate])[:KEPT])


def area(rows: Sequence[EvaluationRow]) -> float:
    """Return the mean held-out success over a run's evaluations: high for fast runs that do not collapse."""
    return fmean(row.success for row in rows)


def best_rates(name: str, path: Path = RATES) -> Rates:
    """Return each arm's rate with the highest mean success, among those with all tuning seeds.

    Raises:
        UserError: the setting has not been tuned.
    """
    lines = [line for line in read_rows(path) if line["setting"] == name]
    tuned = [line for line in lines if int(line["seeds"]) == len(TUNING_SEEDS)]
    if not tuned:
        raise UserError(
            f"{path} has no rates for {name}; run `python -m benchmarks.world.methods tune {name}` first"
        )
    ranked = sorted(tuned, key=lambda line: float(line["success"]))
    return {line["arm"]: float(line["learning_rate"]) for line in ranked}  # the last, best one stays


def run(name: str, starts: Path) -> None:
    """Run every tuned arm on fresh seeds; ``methods.csv`` is written after each seed, so that it has whole pairs."""
    setting, rates = SETTINGS[name], best_rates(name)
    arms = [arm for arm in METHODS if arm in rates]
    out, start = starts / name / "fresh", starts / setting.start
    for count in range(1, len(SEEDS) + 1):
        runs = [(arm, seed) for seed in SEEDS[:count] for arm in arms]
        rows = compare(runs, out, setting.config, checkpoint=start, learning_rates=rates)
        replace_setting(RESULT, name, [{"learning_rate": f"{rates[r.arm]:g}", **cells(r)} for r in rows])


def replace_setting(path: Path, name: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows of one setting in place of those that a CSV has of it; its first column is the setting."""
    found = [{"setting": name, **row} for row in rows]
    if path.exists():
        found += [row for row in read_rows(path) if row["setting"] != name]
    write_rows(path, sorted(found, key=lambda row: list(SETTINGS).index(row["setting"])))


def read_result(path: Path = RESULT) -> dict[str, tuple[Rates, list[EvaluationRow]]]:
    """Return rates and rows of each setting in ``methods.csv``."""
    found: dict[str, tuple[Rates, list[EvaluationRow]]] = {}
    for line in read_rows(path):
        rates, rows = found.setdefault(line.pop("setting"), ({}, []))
        rates[line["arm"]] = float(line.pop("learning_rate"))
        rows.append(row_of(line))
    return found


def show(name: str | None = None) -> None:
    """Print a setting's table; without a name all of them with their bars, and draw the figure.

    Raises:
        UserError: the setting has not been run.
    """
    found = read_result()
    if name is not None:
        if name not in found:
            raise UserError(
                f"{RESULT} has no rows of {name}; run `python -m benchmarks.world.methods run {name}` first"
            )
        print(markdown(*found[name]))
        return
    for setting, (rates, rows) in found.items():
        verdicts = {summary.arm: verdict(summary, rows) for summary in summarize(rows)}
        collapsed = [f"{arm} {held.collapsed}" for arm, held in verdicts.items() if held.collapsed]
        faster = [arm for arm, held in verdicts.items() if held.faster]
        print(f"{setting}\n\n{markdown(rates, rows)}\n\ncollapsed runs: {', '.join(collapsed) or 'none'}")
        print(f"{FASTER} times as fast: {', '.join(faster) or 'none'}\n")
    panels = [
        panel
        for name, (_, rows) in found.items()
        for panel in learning_panels([row for arm in DRAWN for row in rows if row.arm == arm], f"{name}: ")
    ]
    FIGURE.write_text(svg(panels), encoding="utf-8")


def parser() -> Parser:
    """Return the parser of all sub-commands."""
    root = Parser(
        prog="python -m benchmarks.world.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    for name, about, work in (
        ("tune", "rates of every arm on tuning seeds", _tune),
        ("run", "fresh paired seeds at each arm's best rate", _run),
    ):
        command = add_command(commands, name, about, work)
        command.add_argument("setting", choices=SETTINGS, help="kind of world and size of groups")
        command.add_argument(
            "--starts",
            type=Path,
            default=Path("runs/methods"),
            help="folder of the warm starts `usual` and `three_hops`, and of the runs (default: %(default)s)",
        )
        if name == "tune":
            command.add_argument(
                "--arms", nargs="+", choices=METHODS, default=METHODS, metavar="ARM", help="default: all"
            )
    command = add_command(commands, "show", "a setting's table, or all with the bars and the figure", _show)
    command.add_argument("setting", nargs="?", choices=SETTINGS, help="default: all")
    return root


def _tune(arguments: argparse.Namespace) -> int:
    tuned = tune(arguments.setting, arguments.starts, arguments.arms)
    replace_setting(RATES, arguments.setting, tuned)
    print(
        render([["arm", "best rate"], *([arm, f"{r:g}"] for arm, r in best_rates(arguments.setting).items())])
    )
    return 0


def _run(arguments: argparse.Namespace) -> int:
    run(arguments.setting, arguments.starts)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    show(arguments.setting)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    return run_command(parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
