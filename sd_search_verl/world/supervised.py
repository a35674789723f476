"""Supervised training of a tiny model on weighted tokens. The caller supplies the examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from tqdm import tqdm

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
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, config))
    losses = []
    with tqdm(range(config.steps), desc="warm start", unit="step", mininterval=1.0) as bar:
        for step in bar:
            losses.append(accumulate_gradient(model, examples(step / config.steps), config.micro_batches))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            after_step(step + 1)
    return losses


def learning_rate_share(step: int, config: FitConfig) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine to ``final_share``."""
    warmup = min(1.0, (step + 1) / config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))
    return warmup * (config.final_share + (1 - config.final_share) * cosine)


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
