"""``python -m sd_search_verl.world``: build a world's files, remake the checkpoint, or probe a model."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, get_type_hints

import torch
from transformers import AutoTokenizer

from sd_search_verl.errors import UserError
from sd_search_verl.world.config import WorldConfig
from sd_search_verl.world.facts import World
from sd_search_verl.world.files import CHECKPOINT, difficulty, write_world
from sd_search_verl.world.model import HEAD_DIM, load_model
from sd_search_verl.world.supervised import FitConfig
from sd_search_verl.world.warmstart import check, make_checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it did what it says, 1 with a message on stderr otherwise."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        print(COMMANDS[command](options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build(options: dict[str, Any]) -> str:
    """Write a world's files."""
    out, checkpoint = options.pop("out"), options.pop("model")
    given = {name: value for name, value in options.items() if value is not None}
    write_world(World(dataclasses.replace(difficulty(checkpoint), **given)), out, checkpoint)
    return f"{out}: corpus.jsonl, train.parquet, val.parquet, oracle.json, model/"


def warmstart(options: dict[str, Any]) -> str:
    """Train a checkpoint."""
    torch.set_num_threads(1)
    out, begin, head_dim = (options.pop(name) for name in ("out", "begin", "head_dim"))
    fit = FitConfig(**{field.name: options.pop(field.name) for field in dataclasses.fields(FitConfig)})
    given = {name: value for name, value in options.items() if value is not None}
    return f"{out}: {make_checkpoint(out, fit, WorldConfig(**given), begin, head_dim)}"


def probe(options: dict[str, Any]) -> str:
    """Measure a model."""
    path = options["model"]
    model = load_model(path).eval()
    return f"{path}: {check(model, AutoTokenizer.from_pretrained(path), difficulty(path))}"


COMMANDS = {"build": build, "warmstart": warmstart, "probe": probe}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sd_search_verl.world", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="write corpus, questions, oracle and model of a world")
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    command.add_argument(
        "--model", type=Path, default=CHECKPOINT, help="warm-started model to copy (default: shipped)"
    )
    _add_world(command)
    command.add_argument("--seed", type=int, default=WorldConfig.seed, help="default: %(default)s")
    command = commands.add_parser("warmstart", help="train the checkpoint that worlds of a kind start from")
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    command.add_argument(
        "--begin", type=Path, metavar="MODEL", help="go on from this checkpoint, such as the shipped one"
    )
    command.add_argument(
        "--head-dim",
        type=int,
        default=HEAD_DIM,
        metavar="N",
        help="width of each of the fresh model's 4 heads (default: %(default)s, the least for vLLM on a CPU)",
    )
    for field, kind in _fields(FitConfig):
        option = "--" + field.name.replace("_", "-")
        command.add_argument(option, type=kind, default=field.default, help="default: %(default)s")
    _add_world(command)
    command = commands.add_parser("probe", help="measure a warm-started model in fresh worlds")
    command.add_argument("--model", type=Path, default=CHECKPOINT, help="model folder (default: shipped)")
    return parser


def _add_world(parser: argparse.ArgumentParser) -> None:
    """One option for every field of a world's difficulty; None where it is not given."""
    group = parser.add_argument_group("difficulty of the world")
    for field, kind in _fields(WorldConfig):
        if field.name != "seed":
            group.add_argument(
                "--" + field.name.replace("_", "-"), type=kind, help=f"usually {field.default}"
            )


def _fields(config: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(config)
    return [(field, hints[field.name]) for field in dataclasses.fields(config)]


if __name__ == "__main__":
    sys.exit(main())
