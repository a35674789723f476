"""The loop of supervised training: AdamW, a linear warm-up, then a cosine. The caller adds the gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm


def descend(
    model: Any,
    add_gradient: Callable[[int], float],
    *,
    steps: int,
    learning_rate: float,
    warmup_steps: int,
    final_share: float,
    betas: tuple[float, float],
    weight_decay: float,
    title: str,
    after_step: Callable[[int], None] = lambda done: None,
) -> list[float]:
    """Train ``model`` in place and return the loss of every step.

    Args:
        add_gradient: gets the number of steps done, adds the gradient of a batch and returns its loss.
        learning_rate: the peak, after ``warmup_steps``; a cosine leads from it to its ``final_share``.
        title: of the progress bar.
        after_step: called with the number of steps done; may raise to stop.
    """

    def share(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        return min(1.0, (step + 1) / warmup_steps) * (final_share + (1 - final_share) * cosine)

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    losses = []
    with tqdm(range(steps), desc=title, unit="step", mininterval=1.0, dynamic_ncols=True) as bar:
        for step in bar:
            losses.append(add_gradient(step))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            after_step(step + 1)
    return losses
