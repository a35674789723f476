"""The weights of the two losses over training: L = policy_weight * L_GRPO + alpha * L_SD.

After the warm-up, with t = 0, 1, ... the steps since:

    constant  alpha                                        joint training
    cosine    alpha * (1 + cos(pi * min(t / distil_steps, 1))) / 2
    stages    L_SD alone for distil_steps, then L_GRPO alone for rl_steps, in turns (arXiv 2605.22511, 2609.04108)
"""

from __future__ import annotations

import math
from typing import assert_never

from sd_search_verl.config import SDSearchConfig


def alpha_at(step: int, config: SDSearchConfig) -> float:
    """Return alpha of a training step, counted from 1."""
    since = step - config.warmup_steps - 1
    if since < 0:
        return 0.0
    match config.schedule:
        case "constant":
            return config.alpha
        case "cosine":
            return config.alpha * (1 + math.cos(math.pi * min(since / config.distil_steps, 1.0))) / 2
        case "stages":
            place = since if config.rl_steps is None else since % (config.distil_steps + config.rl_steps)
            return config.alpha if place < config.distil_steps else 0.0
        case other:
            assert_never(other)


def is_measured(step: int, every: int | None, config: SDSearchConfig) -> bool:
    """Return whether something is measured in a step: in the first with alpha, then after ``every``; null = never."""
    since = step - config.warmup_steps - 1
    return every is not None and alpha_at(step, config) > 0 and since % every == 0


def policy_weight_at(step: int, config: SDSearchConfig) -> float:
    """Return the weight of L_GRPO in a training step: 0 in a stage of distillation, else 1."""
    return 0.0 if config.schedule == "stages" and alpha_at(step, config) > 0 else 1.0
