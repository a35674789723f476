"""Loaded by verl in a benchmark run (VERL_USE_EXTERNAL_MODULES): alpha is on in odd steps and off in even ones."""

from __future__ import annotations

import sd_search_verl.plugin  # noqa: F401  first: verl loads this module before it loads plugins
import sd_search_verl.verl_adapter.trainer.mixin as trainer
from sd_search_verl.config import SDSearchConfig


def alternating(step: int, config: SDSearchConfig) -> float:
    """Alternate alpha, A B A B in one run: both kinds of step see the same machine, policy and rollout lengths."""
    return config.alpha if step % 2 else 0.0


setattr(trainer, "alpha_at", alternating)  # noqa: B010  a name that the trainer imports
