"""Penalties on tokens of non-negative advantage whose likelihood falls: LLDS and SAPO.

Search agents trained by GRPO collapse after the likelihood even of good responses has fallen for a while. With
d = log pi_old(x) - log pi(x), the drop of a token x, and A its advantage:

    llds           max(0, d)    where A >= 0 and the sum of d over the turn's tokens with A >= 0 is positive
    llds_response  max(0, d)    the same, summed over the response
    sapo           d            where A >= 0 and pi / pi_old <= 0.8

    L = L_GRPO + regularizer_coef * (sum of the penalties) / (policy tokens of the mini-batch)

LLDS: arXiv 2512.04220, as its authors' code has it: "action" and "response" gate, coefficient 0.2 (checked), but for
the derivative at d = 0, here 0. SAPO, Search Agent Policy Optimization: arXiv 2603.10069, after a reading of its code
by others; the paper's bound of the ratio was not to be had, 0.8 is the lower end of PPO's range. There the mean is
over tokens with A >= 0 only.

On the first mini-batch after a rollout d is 0: none of them does anything unless a batch is cut into several.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sd_search_verl.objectives.turns import sums

SAPO_RATIO = 0.8


def penalties(
    kind: str, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, units: Tensor
) -> Tensor:
    """Return the penalty of each of N policy tokens, differentiable through ``log_probs``; all arguments ``[N]``.

    Args:
        kind: a formula of the module's head.
        units: number of the turn, for ``llds_response`` of the response, that a token is in.
    """
    drop = old_log_probs - log_probs
    good = advantages >= 0
    if kind == "sapo":
        return torch.where(good & (drop.detach() >= -math.log(SAPO_RATIO)), drop, 0.0)
    fallen = sums(torch.where(good, drop.detach(), 0.0), units) > 0
    return torch.where(good & fallen, drop.relu(), 0.0)
