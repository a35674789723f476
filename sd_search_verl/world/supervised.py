"""Supervised training of a tiny model on weighted tokens. The caller supplies the examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from sd_search_verl.supervised import descend
from sd_search_verl.world.config import FitConfig

Encoded = tuple[list[int], list[float]]
"""Token ids of an example and the loss weight of each; 0 for tokens that the policy does not write."""


def fit(
    model: Any,
    examples: Callable[[float], Sequence[Encoded]],
    config: FitConfig,
    after_step: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """Train ``model`` in place.

    Args:
        model: a causal language model of transformers.
        examples: the batch at a progress in [0, 1).
        config: steps and optimiser.
        after_step: called with the number of steps done; may raise to stop.

    Returns:
        The loss of every step.
    """
    return descend(
        model,
        lambda done: accumulate_gradient(model, examples(done / config.steps), config.micro_batches),
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        final_share=config.final_share,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        title="warm start",
        after_step=after_step,
    )


def accumulate_gradient(model: Any, examples: Sequence[Encoded], micro_batches: int) -> float:
    """Add the gradient of the weighted mean loss over ``examples`` and return the loss."""
    by_length = sorted(examples, key=lambda example: len(example[0]))
    total_weight = sum(sum(weights[1:]) for _, weights in by_length)
    size = math.ceil(len(by_length) / micro_batches)
    total = 0.0
    for start in range(0, len(by_length), size):
        loss = _loss_sum(model, by_length[start : start + size]) / total_weight
        loss.backward()
        total += float(loss.detach())
    return total


def _loss_sum(model: Any, examples: Sequence[Encoded]) -> torch.Tensor:
    width = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in examples])
    weights = torch.tensor([[*weights, *[0.0] * (width - len(weights))] for _, weights in examples])[:, 1:]
    # Padding is at the end, where causal attention of tokens with weight does not reach it.
    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    counts = weights > 0
    losses = F.cross_entropy(model.lm_head(hidden[counts]), ids[:, 1:][counts], reduction="none")
    return (losses * weights[counts]).sum()
