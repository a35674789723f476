"""The gate of SDAR (arXiv 2605.15155): distil where the teacher likes the sampled token better than the student does.

    g = sigmoid(gate_beta * (log P_teacher(x) - log P_student(x)))    a constant in the backward, beta 5 in the source

Checked in the authors' code, where g weighs log P_student - log P_teacher of the sampled token; here it weighs the
divergence of the whole distributions.
"""

from __future__ import annotations

from torch import Tensor

from sd_search_verl.config import SDSearchConfig


def gated(weights: Tensor, credit: Tensor, config: SDSearchConfig) -> Tensor:
    """Return the weights of N scored tokens in L_SD; without a gate they are unchanged.

    Args:
        weights: ``[N]``.
        credit: ``[N]``, log P_teacher - log P_student of the token that follows.
    """
    if config.gate == "none":
        return weights
    return weights * (config.gate_beta * credit.detach()).sigmoid()
