"""The weight of L_SD over training."""

from __future__ import annotations

from sd_search_verl.config import SDSearchConfig


def alpha_at(step: int, config: SDSearchConfig) -> float:
    """alpha of a training step, counted from 1.

    0 during the warm-up of W steps; then constant, or with ``decay_steps`` D falling linearly to 0:
    alpha * max(0, 1 - (step - W - 1) / D).
    """
    done = step - config.warmup_steps - 1
    if done < 0:
        return 0.0
    if config.decay_steps is None:
        return config.alpha
    return config.alpha * max(0.0, 1 - done / config.decay_steps)
