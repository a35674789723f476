"""``sd-search probe`` on the command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sd_search_verl.cli_options import listing
from sd_search_verl.command_line import add_command
from sd_search_verl.config import ConfigError, read_config
from sd_search_verl.probe.config import ProbeConfig


def add_commands(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    probe = add_command(
        commands,
        "probe",
        "measure whether a policy can be its own teacher: what it does with a hindsight block",
        _probe,
    )
    probe.formatter_class = argparse.RawDescriptionHelpFormatter
    probe.epilog = f"options of --set, with unit and default:\n{listing(ProbeConfig)}"
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
    probe.add_argument(
        "--set",
        dest="overrides",
        action="extend",
        nargs="+",
        default=[],
        metavar="OPTION=VALUE",
        help="such as groups=40 hindsight.group=leave_one_out (default: those below)",
    )


def _probe(arguments: argparse.Namespace) -> int:
    from sd_search_verl.probe.run import Probe, probe, table

    config = _config(arguments.overrides)
    found = probe(Probe(arguments.model, config, arguments.traces, arguments.questions, arguments.retriever))
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _config(overrides: list[str]) -> ProbeConfig:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        values = OmegaConf.to_container(OmegaConf.from_dotlist(overrides))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"overrides {' '.join(overrides)!r} cannot be read: {error}") from None
    return read_config(ProbeConfig, values, "probe")
