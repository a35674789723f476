"""``sd-search world``: write a world's files, train the model that worlds of a kind start from, or measure one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sd_search_verl.cli_options import add_options, read_options
from sd_search_verl.command_line import add_command, add_group
from sd_search_verl.world.config import (
    CHECKPOINT,
    DIFFICULTY,
    HEAD_DIM,
    TOOL_CHECKPOINT,
    FitConfig,
    WorldConfig,
)


def add_commands(commands: Any) -> None:
    """Add the sub-commands."""
    world = add_group(commands, "world", "the synthetic world in which the right query is known")

    build = add_command(world, "build", "write corpus, questions, oracle and model of a world", _build)
    build.add_argument("--out", type=Path, required=True, help="folder to write")
    build.add_argument(
        "--protocol",
        choices=("search_r1", "tool_call"),
        default="search_r1",
        help="which shipped model to copy: one that writes tags or tool calls (default: %(default)s)",
    )
    build.add_argument("--model", type=Path, help="warm-started model to copy (default: shipped)")
    add_options(build.add_argument_group("difficulty of the world, in place of the model's"), WorldConfig)

    warmstart = add_command(
        world, "warmstart", "train the checkpoint that worlds of a kind start from", _warmstart
    )
    warmstart.add_argument("--out", type=Path, required=True, help="folder to write")
    warmstart.add_argument(
        "--begin",
        type=Path,
        metavar="MODEL",
        help="continue from this checkpoint, such as the shipped one (default: fresh weights)",
    )
    warmstart.add_argument(
        "--head-dim",
        type=int,
        default=HEAD_DIM,
        metavar="NUMBERS",
        help="width of each of the fresh model's 4 heads (numbers, default: %(default)s, the least for vLLM on a CPU)",
    )
    add_options(warmstart, FitConfig)
    add_options(warmstart.add_argument_group("difficulty of the world"), WorldConfig, DIFFICULTY)

    calls = add_command(
        world, "tool-call", "train a warm-started model on to tool calls, in minutes", _tool_call
    )
    calls.add_argument("--out", type=Path, required=True, help="folder to write")
    calls.add_argument(
        "--begin", type=Path, default=CHECKPOINT, help="model to begin with (default: shipped)"
    )
    add_options(calls, FitConfig)

    probe = add_command(world, "probe", "measure a warm-started model in fresh worlds", _probe)
    probe.add_argument("--model", type=Path, default=CHECKPOINT, help="model folder (default: shipped)")


def _build(arguments: argparse.Namespace) -> int:
    from sd_search_verl.world.facts import World
    from sd_search_verl.world.files import difficulty, write_world

    shipped = TOOL_CHECKPOINT if arguments.protocol == "tool_call" else CHECKPOINT
    model = arguments.model or shipped
    config = read_options(arguments, WorldConfig, base=dict(difficulty(model)))
    write_world(World(config), arguments.out, model)
    print(f"{arguments.out}: corpus.jsonl, train.parquet, val.parquet, oracle.json, model/")
    return 0


def _warmstart(arguments: argparse.Namespace) -> int:
    import torch

    from sd_search_verl.world.warmstart import make_checkpoint

    torch.set_num_threads(1)
    fit = read_options(arguments, FitConfig)
    world = read_options(arguments, WorldConfig, DIFFICULTY)
    print(
        f"{arguments.out}: {make_checkpoint(arguments.out, fit, world, arguments.begin, arguments.head_dim)}"
    )
    return 0


def _tool_call(arguments: argparse.Namespace) -> int:
    import torch

    from sd_search_verl.world.tool_call import make_tool_checkpoint

    torch.set_num_threads(1)
    fit = read_options(arguments, FitConfig)
    losses = make_tool_checkpoint(arguments.out, fit, arguments.begin)
    print(f"{arguments.out}: loss {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    from sd_search_verl.pretrained import load_tokenizer
    from sd_search_verl.world.files import difficulty
    from sd_search_verl.world.model import load_model
    from sd_search_verl.world.warmstart import check

    path = arguments.model
    model, tokenizer = load_model(path).eval(), load_tokenizer(path)
    print(f"{path}: {check(model, tokenizer, difficulty(path))}")
    return 0
