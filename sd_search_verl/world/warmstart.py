"""The warm start: supervised training until a model follows the protocol and reads the block."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from sd_search_verl.errors import UserError
from sd_search_verl.files import make_new_folder
from sd_search_verl.world.config import HEAD_DIM, FitConfig, WorldConfig
from sd_search_verl.world.demonstrations import Demonstration, demonstration, stage
from sd_search_verl.world.files import write_difficulty
from sd_search_verl.world.model import build_model, load_model
from sd_search_verl.world.probe import initial_success, probe
from sd_search_verl.world.supervised import Encoded, fit
from sd_search_verl.world.tokenizer import build_tokenizer
from sd_search_verl.world.words import RELATIONS


class WarmStartError(UserError):
    """The warm-started model cannot do what the world needs of it."""


class Encoder:
    """Encode demonstrations as token ids with loss weights."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._seen: dict[str, list[int]] = {}

    def __call__(self, example: Demonstration) -> Encoded:
        ids = list(self._tokenizer.encode(example.prompt))
        weights = [example.block_weight if index in self._phrasings else 0.0 for index in ids]
        for segment, weight in example.response:
            pieces = self._segment(segment)
            ids += pieces
            weights += [weight] * len(pieces)
        return [*ids, self._tokenizer.eos_token_id], [*weights, 1.0]

    def _segment(self, segment: str) -> list[int]:
        if segment not in self._seen:
            self._seen[segment] = list(self._tokenizer.encode(segment))
        return self._seen[segment]

    @cached_property
    def _phrasings(self) -> set[int]:
        return {
            self._tokenizer.convert_tokens_to_ids(f" {word}")
            for candidates in RELATIONS.values()
            for word in candidates
        }


def train(model: Any, tokenizer: Any, config: FitConfig, world: WorldConfig) -> list[float]:
    """Train ``model`` in place in worlds like ``world``; returns the loss of every step.

    Raises:
        WarmStartError: halfway the model still does not copy from a block.
    """
    draw = Random(f"warm start/{config.seed}")
    encode = Encoder(tokenizer)

    def examples(progress: float) -> list[Encoded]:
        return [encode(demonstration(draw, stage(progress), world)) for _ in range(config.batch)]

    def halfway(step: int) -> None:
        if step == config.steps // 2:
            _require_copying(model, tokenizer, world, step)

    return fit(model, examples, config, halfway)


def make_checkpoint(
    directory: Path,
    config: FitConfig,
    world: WorldConfig,
    begin: Path | None = None,
    head_dim: int = HEAD_DIM,
) -> str:
    """Train a model, probe it and write it with its tokenizer and kind of world into ``directory``.

    Args:
        begin: a checkpoint of another world to go on from, which is far quicker; else a fresh model.
        head_dim: of a fresh model.

    Returns:
        The measured abilities, as a line of text.

    Raises:
        UserError: ``directory`` holds files.
        WarmStartError: the probe fails; no model is written.
    """
    tokenizer = build_tokenizer()
    make_new_folder(directory)
    model = build_model(tokenizer, config.seed, head_dim) if begin is None else load_model(begin)
    train(model, tokenizer, config, world)
    model.eval().bfloat16()  # half the size
    report = check(model.float(), tokenizer, world)  # of what is stored
    model.bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_difficulty(world, directory)
    return report


def check(model: Any, tokenizer: Any, world: WorldConfig) -> str:
    """Return the measured abilities of a model as a line of text.

    Raises:
        WarmStartError: they do not suffice.
    """
    found = probe(model, tokenizer, world)
    if failures := found.failures():
        raise WarmStartError(
            "the warm start failed: " + "; ".join(failures) + "; try another --seed or more --steps"
        )
    return f"{found}; success before RL {initial_success(model, tokenizer, world):.3f}"


def _require_copying(model: Any, tokenizer: Any, world: WorldConfig, step: int) -> None:
    found = probe(model, tokenizer, world, samples=64)
    if found.correct < 0.5:
        raise WarmStartError(
            f"after {step} steps the model does not copy a CORRECT phrasing from the block ({found}); "
            "try another --seed, more --steps or a lower --learning-rate"
        )
