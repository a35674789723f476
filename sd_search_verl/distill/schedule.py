"""The weight of L_SD over training."""

from __future__ import annotations

from sd_search_verl.config import SDSearchConfig


def alpha_at(step: int, config: SDSearchConfig) -> float:
    """alpha of a training step, counted from 1: 0 during the warm-up, constant after."""
    return 0.0 if step <= config.warmup_steps else config.alpha
