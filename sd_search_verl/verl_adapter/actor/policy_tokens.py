"""A micro-batch's policy tokens as flat tensors, for terms that read log-probs and advantages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.workers.utils.padding import no_padding_2_padding


@dataclass(frozen=True)
class PolicyTokens:
    """The N policy tokens of a micro-batch of B responses, padded to T tokens.

    Attributes:
        mask: ``[B, T]``, True at policy tokens.
        log_probs: ``[N]`` by the current policy, differentiable.
        old: ``[N]`` by the policy before the update.
        advantages: ``[N]``.
    """

    mask: Tensor
    log_probs: Tensor
    old: Tensor
    advantages: Tensor

    @classmethod
    def of(cls, output: Any, data: Any) -> PolicyTokens:
        """Read them from the model's output and verl's micro-batch."""
        log_probs = no_padding_2_padding(output["log_probs"], data)
        padded = data.select("response_mask", "old_log_probs", "advantages").to_padded_tensor()
        mask = padded["response_mask"].bool()
        return cls(mask, log_probs[mask], padded["old_log_probs"][mask], padded["advantages"][mask])


def with_advantages(data: Any, mask: Tensor, advantages: Tensor) -> TensorDict:
    """Return the micro-batch with other advantages ``[N]`` at the policy tokens of ``mask``; the rest is shared."""
    field = data["advantages"]
    lengths = field.offsets().diff()
    written = torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
    values = torch.zeros_like(mask, dtype=field.dtype).masked_scatter(mask, advantages.to(field.dtype))
    copy: TensorDict = data.clone(recurse=False)
    copy["advantages"] = torch.nested.nested_tensor_from_jagged(
        values[written], field.offsets(), max_seqlen=mask.shape[1]
    )
    return copy
