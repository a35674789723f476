"""``sd-search``: the commands of the package."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from sd_search_verl import __version__
from sd_search_verl.command_line import Parser, add_command, run_command
from sd_search_verl.data.commands import add_commands as data_commands
from sd_search_verl.evaluation.commands import add_commands as evaluation_commands
from sd_search_verl.launch.training import SILENCE_S
from sd_search_verl.probe.commands import add_commands as probe_commands
from sd_search_verl.world.commands import add_commands as world_commands


def parser() -> Parser:
    """Return the parser of all commands."""
    root = Parser(prog="sd-search", description="SD-Search for verl.")
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    doctor = add_command(
        commands, "doctor", "check this machine and installation, with the fix for what is wrong", _doctor
    )
    doctor.add_argument(
        "--retriever",
        action="append",
        default=[],
        metavar="URL",
        help="also ask this retriever (default: none)",
    )

    check = add_command(
        commands,
        "check",
        "find what is wrong with a run before it starts",
        prefix_chars="\0",  # the options are Hydra's
        add_help=False,
    )
    check.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="as main_ppo takes them")
    check.set_defaults(action=lambda arguments: _check(check, arguments.arguments))

    local = add_command(
        commands,
        "local",
        "index, retriever, training and report on this machine; leaves no process behind",
        _local,
    )
    local.add_argument("--run", type=Path, required=True, help="folder for all that the run writes")
    local.add_argument(
        "--inputs", type=Path, required=True, help="folder with corpus.jsonl, *.parquet and model/"
    )
    local.add_argument(
        "--config-dir",
        type=Path,
        default=Path(__file__).with_name("hydra_configs"),
        help="folder of the Hydra configs (default: the package's own)",
    )
    local.add_argument("--config", required=True, help="name of the config")
    local.add_argument("--steps", type=int, metavar="STEPS", help="training steps (default: the config's)")
    local.add_argument(
        "--corpus", type=Path, help="JSON lines to index (default: corpus.jsonl of the inputs)"
    )
    local.add_argument("--retriever", metavar="URL", help="use this running server (default: start one)")
    local.add_argument(
        "--silence",
        type=float,
        default=SILENCE_S,
        metavar="SECONDS",
        help="stop a training that writes neither log nor metrics for so long (default: %(default).0f)",
    )
    local.add_argument("overrides", nargs="*", help="Hydra overrides, as main_ppo takes them")

    report = add_command(
        commands, "report", "write one HTML page of curves and trajectories from run folders", _report
    )
    report.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder with metrics.jsonl and traces.jsonl"
    )
    report.add_argument(
        "--out", type=Path, help="file to write (default: report.html in the first run's folder)"
    )

    world_commands(commands)
    evaluation_commands(commands)
    probe_commands(commands)
    data_commands(commands)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    return run_command(parser(), argv)


def _doctor(arguments: argparse.Namespace) -> int:
    from sd_search_verl.doctor import examine
    from sd_search_verl.finding import show

    findings = examine(arguments.retriever)
    print(show(findings))
    return 0 if all(finding.ok for finding in findings) else 1


def _check(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & {*arguments}:
        parser.print_help()
        return 0
    warnings.filterwarnings("ignore", ".* engine is not available")  # of every engine of verl's but ours
    from sd_search_verl.finding import show
    from sd_search_verl.verl_adapter.preflight import check_run, compose, describe_run

    config = compose(arguments)
    findings = check_run(config)
    print("\n".join([show(findings), "", "This run:", *describe_run(config)]))
    return 1 if any(finding.fatal for finding in findings) else 0


def _local(arguments: argparse.Namespace) -> int:
    from sd_search_verl.launch.local import LocalRun, run_local

    page = run_local(
        LocalRun(
            run=arguments.run,
            inputs=arguments.inputs,
            config_dir=arguments.config_dir,
            config=arguments.config,
            steps=arguments.steps,
            overrides=arguments.overrides,
            retriever=arguments.retriever,
            corpus=arguments.corpus,
            silence_s=arguments.silence,
        )
    )
    print(f"metrics: {arguments.run / 'metrics.jsonl'}")
    print(f"traces:  {arguments.run / 'traces.jsonl'}")
    print(f"report:  {page}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from sd_search_verl.evaluation.paired_runs import sentences
    from sd_search_verl.report.html import write_page
    from sd_search_verl.report.run_names import read_runs

    runs = read_runs(arguments.runs)
    found = sentences(runs)
    out = arguments.out or arguments.runs[0] / "report.html"
    print(write_page(runs, out, differences=found), *found, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
