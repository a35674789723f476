"""Probe a policy with every form of the hindsight block, and add a row of each to ``benchmarks/real_model/probe.csv``.

``python -m benchmarks.real_model.forms MODEL --traces FILE`` reads the groups once. Rows that the file has are kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.arguments import add_option
from benchmarks.real_model.probe import columns
from benchmarks.table import append_rows, read_rows
from sd_search_verl import protocol as protocols
from sd_search_verl.command_line import Parser, run_command
from sd_search_verl.config import HindsightConfig, read_config
from sd_search_verl.hindsight.block import is_correct
from sd_search_verl.probe.config import ProbeConfig
from sd_search_verl.probe.groups import read_groups
from sd_search_verl.probe.measures import SENTENCES, Measures, verdict
from sd_search_verl.probe.scores import load_model, score_groups

FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    **{
        f"layout={name}": {"layout": name}
        for name in ("outcome_last", "sentences", "tags", "scores", "sections")
    },
    "order=correct_first": {"order": "correct_first"},
    "order=correct_last": {"order": "correct_last"},
    "instruction": {"instruction": True},
    "demonstration": {"demonstration": True},
    "placement=after_question": {"placement": "after_question"},
    "leave_one_out": {"group": "leave_one_out"},
    "own=hidden": {"own": "hidden"},
    "label=em": {"label": "em"},
    "label=reward": {"label": "reward"},
    "own=cut": {"own": "cut"},  # a row for every token
}


def run(options: argparse.Namespace) -> int:
    """Probe with each form and print its numbers."""
    torch.set_num_threads(1)
    name = options.name or options.model.name
    done = _done(options.csv, name, options.rollouts)
    config = ProbeConfig(conditions="needed", dtype=options.dtype)
    model, tokenizer = load_model(options.model, config)
    groups = read_groups(options.traces, tokenizer, protocols.get(config.protocol))
    for form in options.forms or FORMS:
        if form in done:
            continue
        hindsight = read_config(HindsightConfig, dict(options.base) | FORMS[form], "hindsight")
        judged = config.replace(hindsight=hindsight)
        mixed = sorted(groups, key=lambda group: len({is_correct(r, hindsight) for r in group}) < 2)
        found = Measures.of(score_groups(model, tokenizer, mixed[: options.groups], judged))
        short, _ = verdict(found)
        row: dict[str, object] = {"model": name, "rollouts": options.rollouts, "block": form}
        append_rows(options.csv, [row | columns(found.as_dict(), SENTENCES[short], str(model.device))])
        print(
            form,
            short,
            {k: v and f"{v.mean:.3f} [{v.low:.3f}, {v.high:.3f}] {v.n}" for k, v in vars(found).items()},
        )
    return 0


def _done(path: Path, name: str, rollouts: str) -> set[str]:
    if not path.exists():
        return set()
    kept = (row for row in read_rows(path) if (row["model"], row["rollouts"]) == (name, rollouts))
    return {row["block"] for row in kept}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser(prog="python -m benchmarks.real_model.forms", description=__doc__)
    parser.add_argument("model", type=Path, help="Hugging Face folder")
    parser.add_argument("--traces", type=Path, required=True, metavar="FILE", help="groups of rollouts")
    parser.add_argument("--name", help="of the policy in the rows (default: the folder's)")
    add_option(parser, "--rollouts", "tuning", "of the groups in the rows")
    parser.add_argument(
        "--forms", nargs="+", choices=[*FORMS], metavar="FORM", help="of the block (default: all)"
    )
    parser.add_argument(
        "--base",
        nargs="+",
        default=[],
        type=lambda text: tuple(text.split("=", 1)),
        metavar="OPTION=VALUE",
        help="hindsight options that every form has (default: none)",
    )
    parser.add_argument(
        "--groups", type=int, metavar="GROUPS", help="to score, mixed ones first (default: all)"
    )
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="(default: %(default)s)"
    )
    add_option(parser, "--csv", Path("benchmarks/real_model/probe.csv"), "file to add to")
    parser.set_defaults(action=run)
    return run_command(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
