"""``sd-search score``, ``evaluate``, ``compare`` and ``ask`` on the command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sd_search_verl.cli_options import add_options, add_set, read_options
from sd_search_verl.command_line import add_command
from sd_search_verl.errors import UserError, printable
from sd_search_verl.evaluation.config import (
    EvaluationConfig,
    ResolvedConfig,
    ScoreFields,
    find_training_config,
    read_settings,
)
from sd_search_verl.files import read_json


def add_commands(commands: Any) -> None:
    """Add the sub-commands to what argparse's ``add_subparsers`` returned."""
    score = add_command(commands, "score", "compute EM, F1 and cover-EM of given trajectories", _score)
    score.add_argument("file", type=Path, help="JSON lines, plain or .gz")
    add_options(score, ScoreFields)
    score.add_argument(
        "--protocol", metavar="NAME", help="tags of the texts (default: detected in each text)"
    )

    evaluate = add_command(
        commands,
        "evaluate",
        "evaluate a checkpoint with the training's agent loop; resumable",
        _evaluate,
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

    compare = add_command(
        commands,
        "compare",
        "compute paired differences of two evaluations, or of two groups of them",
        _compare,
    )
    compare.add_argument(
        "a", nargs="+", type=Path, metavar="RUN", help="folders of `evaluate`: A and B, or all of A"
    )
    compare.add_argument(
        "--with",
        dest="b",
        nargs="+",
        type=Path,
        default=[],
        metavar="RUN",
        help="all of B (default: the second RUN)",
    )
    compare.add_argument(
        "--changed",
        type=int,
        default=5,
        metavar="QUESTIONS",
        help="number of gained and of lost questions to list (default: %(default)s)",
    )
    compare.add_argument(
        "--out", type=Path, metavar="FILE", help="write the comparison as JSON (default: not written)"
    )

    ask = add_command(commands, "ask", "answer one question and show every turn", _ask)
    ask.add_argument("question", help="text of the question")
    _add_model(ask)


def _add_model(command: argparse.ArgumentParser) -> None:
    """Add the options that an agent needs to answer a question."""
    command.add_argument(
        "--model", type=Path, required=True, help="Hugging Face folder, or a global_step_N of verl's"
    )
    command.add_argument(
        "--retriever",
        action="append",
        default=[],
        metavar="URL",
        help="retrieval server; may be repeated (default: the training's search.retriever_urls)",
    )
    command.add_argument(
        "--training",
        type=Path,
        metavar="CONFIG",
        help=".hydra/config.yaml of the training, whose limits are taken over (default: the one beside the checkpoint)",
    )
    example = "temperature=1 seeds=[0,1,2] search.top_k=5"
    add_set(command, EvaluationConfig, example, "the training's values, else those below")


def _score(arguments: argparse.Namespace) -> int:
    from sd_search_verl.evaluation.score import score_file, table

    fields = read_options(arguments, ScoreFields)
    scored = score_file(arguments.file, fields, arguments.protocol)
    for complaint in scored.complaints():
        print(f"{arguments.file}: {printable(complaint)}", file=sys.stderr)
    if scored.rows:
        print(printable(table(scored)))
    malformed = len(scored.problems)
    print(f"{scored.rows} rows scored, {scored.unanswered} of them without an answer; {malformed} malformed")
    return 1 if malformed or not scored.rows else 0


def _settings(arguments: argparse.Namespace) -> ResolvedConfig:
    training = arguments.training or find_training_config(arguments.model)
    if training is not None:
        print(f"options of the training: {training}", file=sys.stderr)
    settings = read_settings(training, arguments.overrides, arguments.retriever)
    for warning in settings.warnings():
        print(f"warning: {printable(warning)}", file=sys.stderr)
    return settings


def _evaluate(arguments: argparse.Namespace) -> int:
    from sd_search_verl.evaluation.evaluate import Evaluation, evaluate
    from sd_search_verl.evaluation.results import latency_line, table

    files = [_named_file(text) for text in arguments.questions]
    results = evaluate(Evaluation(arguments.model, files, arguments.out, _settings(arguments)))
    print(printable(table(results)))
    print(latency_line(read_json(arguments.out / "timing.json")))
    print(f"protocol {results['protocol']} {results['protocol_hash']}; files: {arguments.out}")
    return 0


def _named_file(text: str) -> tuple[str | None, Path]:
    """Return set, or None, and path of ``[SET=]FILE``; a path may hold ``=``, a set's name no ``/``."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        return None, Path(text)
    return name or None, Path(path)


def _compare(arguments: argparse.Namespace) -> int:
    from sd_search_verl.evaluation.compare import compare, read_run, table

    if arguments.changed < 0:
        raise UserError(f"--changed={arguments.changed} must be at least 0. Fix: 0 lists none")
    a, b = (arguments.a, arguments.b) if arguments.b else (arguments.a[:1], arguments.a[1:])
    if not b or (not arguments.b and len(b) > 1):
        raise UserError("give two evaluations, or several of each side: compare A1 A2 --with B1 B2")
    result = compare([read_run(run) for run in a], [read_run(run) for run in b])
    print(printable(table(result, arguments.changed)))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def _ask(arguments: argparse.Namespace) -> int:
    from sd_search_verl.evaluation.ask import ask

    ask(arguments.question, arguments.model, _settings(arguments).config)
    return 0
