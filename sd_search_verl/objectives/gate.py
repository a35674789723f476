"""Gates of L_SD: a factor of each scored token's divergence, a constant in the backward.

    sigmoid    g = sigmoid(gate_beta * c)           c = log P_teacher(x) - log P_student(x) of the sampled token x
    labels     g = |s| / (|s| + |c - s|)            s = (log P_teacher(x) - log P_flipped(x)) / 2

``sigmoid`` is SDAR's (arXiv 2605.15155, beta 5): distil where the teacher likes the token better than the student does.
Checked in the authors' code, where g weighs log P_student - log P_teacher; here it weighs the divergence of the whole
distributions. ``labels`` distils where the teacher reads the labels: s is the part of the credit c that turns when all
labels are inverted, c - s the part that stays, which is copying; 1 - g is the copy share of one token.
"""

from __future__ import annotations

from torch import Tensor

from sd_search_verl.config import SDSearchConfig


def gated(weights: Tensor, credit: Tensor, config: SDSearchConfig, labelled: Tensor | None = None) -> Tensor:
    """Return the weights of N scored tokens in L_SD; without a gate they are unchanged.

    Args:
        weights: ``[N]``.
        credit: ``[N]``, log P_teacher - log P_student of the token that follows.
        labelled: ``[N]``, s above; only ``gate=labels`` reads it.
    """
    if config.gate == "none":
        return weights
    if config.gate == "sigmoid":
        return weights * (config.gate_beta * credit.detach()).sigmoid()
    assert labelled is not None
    read, copied = labelled.abs(), (credit.detach() - labelled).abs()
    return weights * read / (read + copied).clamp_min(1e-12)
