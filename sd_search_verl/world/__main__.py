"""``python -m sd_search_verl.world``: build a world's files, remake the checkpoint, or probe a model."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, get_type_hints

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sd_search_verl.world.config import WorldConfig
from sd_search_verl.world.facts import World
from sd_search_verl.world.files import CHECKPOINT, write_world
from sd_search_verl.world.supervised import FitConfig
from sd_search_verl.world.warmstart import WarmStartError, check, make_checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it did what it says, 1 with a message on stderr otherwise."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        print(COMMANDS[command](options))
    except (ValueError, OSError, WarmStartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build(options: dict[str, Any]) -> str:
    """Write a world's files."""
    out, checkpoint = options.pop("out"), options.pop("model")
    write_world(World(WorldConfig(**options)), out, checkpoint)
    return f"{out}: corpus.jsonl, train.parquet, val.parquet, oracle.json, model/"


def warmstart(options: dict[str, Any]) -> str:
    """Train a checkpoint."""
    torch.set_num_threads(1)
    out = options.pop("out")
    return f"{out}: {make_checkpoint(out, FitConfig(**options))}"


def probe(options: dict[str, Any]) -> str:
    """Measure a model."""
    path = options["model"]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return f"{path}: {check(model, AutoTokenizer.from_pretrained(path))}"


COMMANDS = {"build": build, "warmstart": warmstart, "probe": probe}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sd_search_verl.world", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="write corpus, questions, oracle and model of a world")
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    command.add_argument(
        "--model", type=Path, default=CHECKPOINT, help="warm-started model to copy (default: shipped)"
    )
    _add_fields(command, WorldConfig)
    command = commands.add_parser("warmstart", help="train the checkpoint that worlds start from")
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    _add_fields(command, FitConfig)
    command = commands.add_parser("probe", help="measure a warm-started model in fresh worlds")
    command.add_argument("--model", type=Path, default=CHECKPOINT, help="model folder (default: shipped)")
    return parser


def _add_fields(parser: argparse.ArgumentParser, config: type) -> None:
    """One option for every field of a config dataclass."""
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(
            option, type=hints[field.name], default=field.default, help="default: %(default)s"
        )


if __name__ == "__main__":
    sys.exit(main())
