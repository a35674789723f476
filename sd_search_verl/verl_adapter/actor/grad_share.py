"""The size of the method's gradient beside GRPO's: ``|alpha grad L_SD| / |grad L_GRPO|`` of one mini-batch.

Each norm takes one more forward and backward over the mini-batch, by verl's engine as in its update, with one of the
two terms alone. Gradients and random state are put back, so the update that follows is the same to the bit.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict
from torch.distributed.fsdp import FullyShardedDataParallel
from verl.utils.device import get_torch_device
from verl.utils.fsdp_utils import fsdp2_clip_grad_norm_

from sd_search_verl.verl_adapter.actor.loss import SDLossInputs, SDSearchLoss


def grad_share(engine: Any, data: TensorDict, loss: SDSearchLoss, teacher: SDLossInputs) -> float | None:
    """Return the share, the same on every rank; None where GRPO has no gradient or one of the two is not finite.

    Args:
        engine: verl's FSDP engine in train mode, without gradients; left so.
        data: the mini-batch with all options of verl's update.
    """
    teacher = replace(teacher, credit=None)
    states = torch.get_rng_state(), get_torch_device().get_rng_state()
    try:
        method = _gradient_norm(engine, data, loss, replace(teacher, policy_weight=0.0))
        policy = _gradient_norm(engine, data, loss, replace(teacher, alpha=0.0, policy_weight=1.0))
    finally:
        torch.set_rng_state(states[0])
        get_torch_device().set_rng_state(states[1])
    share = method / policy if policy else math.nan
    return share if math.isfinite(share) else None


def _gradient_norm(engine: Any, data: TensorDict, loss: SDSearchLoss, teacher: SDLossInputs) -> float:
    """Return the gradient norm over all ranks, without clipping."""
    try:
        with loss.with_teacher(teacher):
            engine.forward_backward_batch(data, loss_function=loss)
        module = engine.module
        if isinstance(module, FullyShardedDataParallel):
            norm = module.clip_grad_norm_(math.inf)
        else:
            norm = fsdp2_clip_grad_norm_(module.parameters(), max_norm=math.inf)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    finally:
        engine.optimizer_zero_grad()
