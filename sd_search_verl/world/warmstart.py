"""The warm start: supervised training until a model follows the protocol and reads the block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn import functional as F
from tqdm import tqdm

from sd_search_verl.world.demonstrations import Demonstration, demonstration, stage
from sd_search_verl.world.model import build_model
from sd_search_verl.world.probe import initial_success, probe
from sd_search_verl.world.tokenizer import build_tokenizer, save_tokenizer
from sd_search_verl.world.words import RELATIONS


class WarmStartError(RuntimeError):
    """The warm-started model cannot do what the world needs of it."""


@dataclass(frozen=True)
class WarmStartConfig:
    """How the warm start trains; the time is about 0.09 s a step on one free core."""

    seed: int = 0
    steps: int = 1700
    batch: int = 48
    micro_batches: int = 2
    """A batch is sorted by length and cut into this many, so that little of it is padding."""
    learning_rate: float = 4e-3
    warmup_steps: int = 100
    final_share: float = 0.05
    """The learning rate ends at this share of its peak."""
    check_at: float = 0.5
    """Share of the steps after which copying from the block must have emerged, else training stops."""


Encoded = tuple[list[int], list[float]]
"""Token ids of a whole example and the loss weight of each."""


class Encoder:
    """Demonstrations as token ids."""

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
            self._tokenizer.convert_tokens_to_ids(f" {phrasing}")
            for candidates in RELATIONS.values()
            for phrasing in candidates
        }


def train(model: Any, tokenizer: Any, config: WarmStartConfig) -> list[float]:
    """Train ``model`` in place.

    Returns:
        The loss of every step.

    Raises:
        WarmStartError: halfway the model still does not copy from a block.
    """
    draw = Random(f"warm start/{config.seed}")
    encode = Encoder(tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, config))
    losses = []
    with tqdm(range(config.steps), desc="warm start", unit="step") as bar:
        for step in bar:
            now = stage(step / config.steps)
            examples = [encode(demonstration(draw, now)) for _ in range(config.batch)]
            losses.append(_update(model, examples, config.micro_batches))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if step + 1 == round(config.check_at * config.steps):
                _require_copying(model, tokenizer, step + 1)
    return losses


def learning_rate_share(step: int, config: WarmStartConfig) -> float:
    """Linear warm-up, then a cosine to ``final_share``."""
    warmup = min(1.0, (step + 1) / config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))
    return warmup * (config.final_share + (1 - config.final_share) * cosine)


def make_checkpoint(directory: Path, config: WarmStartConfig) -> str:
    """Train a fresh model, probe it and write it with its tokenizer into ``directory``.

    Returns:
        The measured abilities, as a line of text.

    Raises:
        WarmStartError: the probe fails; nothing is written.
    """
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, config.seed)
    train(model, tokenizer, config)
    model.eval()
    report = check(model, tokenizer)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return report


def check(model: Any, tokenizer: Any) -> str:
    """The measured abilities of a model, as a line of text.

    Raises:
        WarmStartError: they do not suffice.
    """
    found = probe(model, tokenizer)
    if failures := found.failures():
        raise WarmStartError(
            "the warm start failed: " + "; ".join(failures) + "; try another --seed or more --steps"
        )
    return f"{found}; success before RL {initial_success(model, tokenizer):.3f}"


def _update(model: Any, examples: list[Encoded], micro_batches: int) -> float:
    """Accumulate the gradient of the weighted mean loss over ``examples``; returns that loss."""
    examples = sorted(examples, key=lambda example: len(example[0]))
    total_weight = sum(sum(weights[1:]) for _, weights in examples)
    size = math.ceil(len(examples) / micro_batches)
    total = 0.0
    for start in range(0, len(examples), size):
        loss = _loss_sum(model, examples[start : start + size]) / total_weight
        loss.backward()
        total += float(loss.detach())
    return total


def _loss_sum(model: Any, examples: list[Encoded]) -> torch.Tensor:
    width = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in examples])
    weights = torch.tensor([[*weights, *[0.0] * (width - len(weights))] for _, weights in examples])[:, 1:]
    # Padding is at the end, where causal attention never looks back from a token that counts.
    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    counts = weights > 0
    losses = F.cross_entropy(model.lm_head(hidden[counts]), ids[:, 1:][counts], reduction="none")
    return (losses * weights[counts]).sum()


def _require_copying(model: Any, tokenizer: Any, step: int) -> None:
    found = probe(model, tokenizer, samples=64)
    if found.correct < 0.5:
        raise WarmStartError(
            f"after {step} steps the model does not copy a CORRECT phrasing from the block ({found}); "
            "try another --seed, more --steps or a lower --learning-rate"
        )
