"""``sd-search``: the commands of the package."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sd_search_verl import __version__
from sd_search_verl.config import ConfigError
from sd_search_verl.world.commands import add_commands

if TYPE_CHECKING:
    from sd_search_verl.evaluation.config import Settings


def parser() -> argparse.ArgumentParser:
    """The command line; one sub-command per thing a user does."""
    root = argparse.ArgumentParser(prog="sd-search", description="SD-Search for verl.")
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    doctor = commands.add_parser(
        "doctor", help="check this machine and installation, with the fix for what is wrong"
    )
    doctor.add_argument(
        "--retriever", action="append", default=[], metavar="URL", help="also ask this retriever"
    )
    doctor.set_defaults(action=_doctor)

    local = commands.add_parser(
        "local", help="index, retriever, training and report on this machine's CPU; leaves no process behind"
    )
    local.add_argument("--run", type=Path, required=True, help="folder for everything the run leaves")
    local.add_argument(
        "--world", type=Path, required=True, help="folder with corpus.jsonl, *.parquet and model/"
    )
    local.add_argument("--config-dir", type=Path, required=True, help="folder of the Hydra configs")
    local.add_argument("--config", required=True, help="name of the config")
    local.add_argument("--steps", type=int, help="training steps; default: the config's")
    local.add_argument("--corpus", type=Path, help="default: corpus.jsonl in the world's folder")
    local.add_argument("--retriever", metavar="URL", help="use this running server instead of starting one")
    local.add_argument("overrides", nargs="*", help="Hydra overrides, as main_ppo takes them")
    local.set_defaults(action=_local)

    report = commands.add_parser("report", help="one HTML page of curves and trajectories from run folders")
    report.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder with metrics.jsonl and traces.jsonl"
    )
    report.add_argument("--out", type=Path, help="default: report.html in the first run's folder")
    report.set_defaults(action=_report)

    score = commands.add_parser("score", help="EM, F1 and cover-EM of trajectories that anyone made")
    score.add_argument("file", type=Path, help="JSON lines, plain or .gz")
    score.add_argument(
        "--text", default="response", metavar="FIELD", help="the trajectory (default: %(default)s)"
    )
    score.add_argument("--answer", metavar="FIELD", help="an extracted answer, in place of --text")
    score.add_argument("--golden", default="golden_answers", metavar="FIELD", help="default: %(default)s")
    score.add_argument("--by", metavar="FIELD", help="one line for each value of this field")
    score.add_argument("--protocol", help="default: the one whose tags a text has")
    score.set_defaults(action=_score)

    add_commands(commands.add_parser("world", help="the method in a synthetic world: run, compare, plot"))

    evaluate = commands.add_parser(
        "evaluate", help="ask a checkpoint questions, with the training's agent loop; goes on after a kill"
    )
    _add_model(evaluate)
    evaluate.add_argument(
        "--questions",
        action="append",
        required=True,
        metavar="[SET=]FILE",
        help="JSON lines with question and golden_answers, or verl's parquet; may be repeated",
    )
    evaluate.add_argument(
        "--out", type=Path, required=True, help="folder of results.json and trajectories.jsonl"
    )
    evaluate.set_defaults(action=_evaluate)

    compare = commands.add_parser(
        "compare", help="paired differences of two evaluations, or of two groups of them"
    )
    compare.add_argument(
        "a", nargs="+", type=Path, metavar="RUN", help="folders of `evaluate`: A and B, or all of A"
    )
    compare.add_argument(
        "--with", dest="b", nargs="+", type=Path, default=[], metavar="RUN", help="all of B (other seeds)"
    )
    compare.add_argument(
        "--changed",
        type=int,
        default=5,
        metavar="N",
        help="questions to show each way (default: %(default)s)",
    )
    compare.add_argument("--out", type=Path, help="write everything here as JSON")
    compare.set_defaults(action=_compare)

    ask = commands.add_parser("ask", help="one question, shown step by step")
    ask.add_argument("question")
    _add_model(ask)
    ask.set_defaults(action=_ask)
    return root


def _add_model(command: argparse.ArgumentParser) -> None:
    """What a model needs to answer a question."""
    command.add_argument(
        "--model", type=Path, required=True, help="Hugging Face folder, or a global_step_N of verl's"
    )
    command.add_argument("--retriever", action="append", default=[], metavar="URL", help="may be repeated")
    command.add_argument(
        "--training",
        type=Path,
        metavar="CONFIG",
        help="the training's .hydra/config.yaml: its limits are taken over; found by itself beside a checkpoint",
    )
    command.add_argument("overrides", nargs="*", help="such as temperature=1 seeds=[0,1,2] search.top_k=5")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status. Errors a user can mend are one message, not a traceback."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.action(arguments))
    except KeyboardInterrupt:
        print("interrupted; nothing is left running", file=sys.stderr)
        return 130
    except (ConfigError, FileNotFoundError, RuntimeError, ValueError) as error:
        print(f"sd-search: {error}", file=sys.stderr)
        return 1


def _doctor(arguments: argparse.Namespace) -> int:
    from sd_search_verl.doctor import examine, show

    findings = examine(arguments.retriever)
    print(show(findings))
    return 0 if all(finding.ok for finding in findings) else 1


def _local(arguments: argparse.Namespace) -> int:
    from sd_search_verl.launch.local import LocalRun, run_local

    page = run_local(
        LocalRun(
            run=arguments.run,
            world=arguments.world,
            config_dir=arguments.config_dir,
            config=arguments.config,
            steps=arguments.steps,
            overrides=arguments.overrides,
            retriever=arguments.retriever,
            corpus=arguments.corpus,
        )
    )
    print(f"metrics: {arguments.run / 'metrics.jsonl'}")
    print(f"traces:  {arguments.run / 'traces.jsonl'}")
    print(f"report:  {page}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from sd_search_verl.report import write_report

    print(write_report(arguments.runs, arguments.out or arguments.runs[0] / "report.html"))
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from sd_search_verl.evaluation.score import Fields, score_file, table

    fields = Fields(arguments.text, arguments.golden, arguments.answer, arguments.by)
    scored = score_file(arguments.file, fields, arguments.protocol)
    for problem in scored.problems:
        print(f"{arguments.file}: {problem}", file=sys.stderr)
    if scored.rows:
        print(table(scored))
    malformed = len(scored.problems)
    print(f"{scored.rows} rows scored, {scored.unanswered} of them without an answer; {malformed} malformed")
    return 1 if malformed or not scored.rows else 0


def _settings(arguments: argparse.Namespace) -> Settings:
    from sd_search_verl.evaluation.config import find_training_config, read_settings

    training = arguments.training or find_training_config(arguments.model)
    settings = read_settings(training, arguments.overrides, arguments.retriever)
    for warning in settings.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    return settings


def _evaluate(arguments: argparse.Namespace) -> int:
    from sd_search_verl.evaluation.evaluate import Evaluation, evaluate
    from sd_search_verl.evaluation.results import table

    files = [(name or None, Path(path)) for name, _, path in (q.rpartition("=") for q in arguments.questions)]
    results = evaluate(Evaluation(arguments.model, files, arguments.out, _settings(arguments)))
    print(table(results))
    print(
        "latency: "
        + (arguments.out / "timing.json").read_text().translate(str.maketrans("", "", '{}"\n')).strip()
    )
    print(f"protocol {results['protocol']} {results['protocol_hash']}; files: {arguments.out}")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from sd_search_verl.evaluation.compare import compare, read_run, table

    a, b = (arguments.a, arguments.b) if arguments.b else (arguments.a[:1], arguments.a[1:])
    if not b or (not arguments.b and len(b) > 1):
        raise ValueError("give two evaluations, or several of each side: compare A1 A2 --with B1 B2")
    result = compare([read_run(run) for run in a], [read_run(run) for run in b])
    print(table(result, arguments.changed))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def _ask(arguments: argparse.Namespace) -> int:
    from sd_search_verl.evaluation.ask import ask

    ask(arguments.question, arguments.model, _settings(arguments).config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
