"""``sd-search probe`` and ``lessons`` on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sd_search_verl.cli_options import add_set, read_set
from sd_search_verl.command_line import add_command
from sd_search_verl.config import read_config
from sd_search_verl.errors import printable
from sd_search_verl.files import check_writable, write_json
from sd_search_verl.probe.config import LessonsConfig, ProbeConfig


def add_commands(commands: Any) -> None:
    """Add the commands to what argparse's ``add_subparsers`` returned."""
    probe = add_command(
        commands,
        "probe",
        "measure whether a policy can be its own teacher: what it does with a hindsight block",
        _probe,
    )
    probe.add_argument("model", type=Path, help="Hugging Face folder, or a global_step_N of verl's")
    probe.add_argument(
        "--traces",
        type=Path,
        metavar="FILE",
        help="groups of rollouts: traces.jsonl of a run, trajectories.jsonl of `evaluate`, or lines with question, "
        "response and golden_answers (default: made of --questions)",
    )
    probe.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="make groups of rollouts of these questions (default: none)",
    )
    probe.add_argument(
        "--retriever",
        action="append",
        default=[],
        metavar="URL",
        help="retrieval server for them; may be repeated (default: none)",
    )
    probe.add_argument(
        "--json", type=Path, metavar="FILE", help="write the result as JSON (default: not written)"
    )
    add_set(probe, ProbeConfig, "groups=40 hindsight.group=leave_one_out", "those below")

    lessons = add_command(
        commands, "lessons", "teach a policy, in minutes, to read the labels of a hindsight block", _lessons
    )
    lessons.add_argument("model", type=Path, help="Hugging Face folder")
    lessons.add_argument("out", type=Path, help="folder to write the taught policy to")
    lessons.add_argument(
        "--traces", type=Path, metavar="FILE", required=True, help="groups of its rollouts, as for `probe`"
    )
    add_set(lessons, LessonsConfig, "steps=40 hindsight.label=em", "those below")


def _probe(arguments: argparse.Namespace) -> int:
    from sd_search_verl.probe.run import Probe, probe, table

    config = read_config(ProbeConfig, read_set(arguments.overrides), section="")
    if arguments.json:
        check_writable(arguments.json)
    found = probe(Probe(arguments.model, config, arguments.traces, arguments.questions, arguments.retriever))
    print(printable(table(found)))
    if arguments.json:
        write_json(arguments.json, found)
    return 0


def _lessons(arguments: argparse.Namespace) -> int:
    from sd_search_verl.probe.lessons import give_lessons

    config = read_config(LessonsConfig, read_set(arguments.overrides), section="")
    losses = give_lessons(arguments.model, arguments.out, arguments.traces, config)
    print(f"{arguments.out}: loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
    return 0
