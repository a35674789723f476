"""``sd-search world``: write a world's files, train the model that worlds of a kind start from, or measure one."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

from sd_search_verl.command_line import add_command, add_group
from sd_search_verl.world.config import CHECKPOINT, HEAD_DIM, FitConfig, WorldConfig


def add_commands(commands: Any) -> None:
    """Add the sub-commands."""
    world = add_group(commands, "world", "the synthetic world in which the right query is known")

    build = add_command(world, "build", "write corpus, questions, oracle and model of a world", _build)
    build.add_argument("--out", type=Path, required=True, help="folder to write")
    build.add_argument(
        "--model", type=Path, default=CHECKPOINT, help="warm-started model to copy (default: shipped)"
    )
    _add_world(build)
    build.add_argument("--seed", type=int, default=WorldConfig.seed, help="default: %(default)s")

    warmstart = add_command(
        world, "warmstart", "train the checkpoint that worlds of a kind start from", _warmstart
    )
    warmstart.add_argument("--out", type=Path, required=True, help="folder to write")
    warmstart.add_argument(
        "--begin", type=Path, metavar="MODEL", help="continue from this checkpoint, such as the shipped one"
    )
    warmstart.add_argument(
        "--head-dim",
        type=int,
        default=HEAD_DIM,
        metavar="N",
        help="width of each of the fresh model's 4 heads (default: %(default)s, the least for vLLM on a CPU)",
    )
    for field, kind in _fields(FitConfig):
        option = "--" + field.name.replace("_", "-")
        warmstart.add_argument(option, type=kind, default=field.default, help="default: %(default)s")
    _add_world(warmstart)

    probe = add_command(world, "probe", "measure a warm-started model in fresh worlds", _probe)
    probe.add_argument("--model", type=Path, default=CHECKPOINT, help="model folder (default: shipped)")


def _build(arguments: argparse.Namespace) -> int:
    from sd_search_verl.world.facts import World
    from sd_search_verl.world.files import difficulty, write_world

    config = dataclasses.replace(difficulty(arguments.model), **_given(arguments), seed=arguments.seed)
    write_world(World(config), arguments.out, arguments.model)
    print(f"{arguments.out}: corpus.jsonl, train.parquet, val.parquet, oracle.json, model/")
    return 0


def _warmstart(arguments: argparse.Namespace) -> int:
    import torch

    from sd_search_verl.world.warmstart import make_checkpoint

    torch.set_num_threads(1)
    fit = FitConfig(**{field.name: getattr(arguments, field.name) for field, _ in _fields(FitConfig)})
    world = WorldConfig(**_given(arguments))
    print(
        f"{arguments.out}: {make_checkpoint(arguments.out, fit, world, arguments.begin, arguments.head_dim)}"
    )
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    from transformers import AutoTokenizer

    from sd_search_verl.world.files import difficulty
    from sd_search_verl.world.model import load_model
    from sd_search_verl.world.warmstart import check

    path = arguments.model
    model, tokenizer = load_model(path).eval(), AutoTokenizer.from_pretrained(path)
    print(f"{path}: {check(model, tokenizer, difficulty(path))}")
    return 0


def _add_world(command: argparse.ArgumentParser) -> None:
    """Add one option for every field of a world's difficulty; None where it is not given."""
    group = command.add_argument_group("difficulty of the world")
    for field, kind in _fields(WorldConfig):
        if field.name != "seed":
            group.add_argument(
                "--" + field.name.replace("_", "-"), type=kind, help=f"usually {field.default}"
            )


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the difficulty that was given on the command line."""
    values = {f.name: getattr(arguments, f.name) for f, _ in _fields(WorldConfig) if f.name != "seed"}
    return {name: value for name, value in values.items() if value is not None}


def _fields(config: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(config)
    return [(field, hints[field.name]) for field in dataclasses.fields(config)]
