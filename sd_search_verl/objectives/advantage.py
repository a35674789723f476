"""Scale each turn's advantage by what the teacher thinks of it, within bounds (``use=advantage``).

    gap = mean over the turn's scored tokens of log P_teacher(x) - log P_student(x)
    w   = exp(sign(A) gap), clipped to [1 - bound, 1 + bound]
    A'  = A (1 + alpha (w - 1))

The reward says in which direction a turn goes, the teacher only how far: alpha * bound < 1 keeps the sign. The factor
is that of RLSD (arXiv 2604.03128: alpha 0.5, bound 0.2, checked in a reimplementation by others), which has it for each
token; the mean over a turn and the bound of 0.5 are those of TurnSight (arXiv 2608.04007, read in summary only).

A divergence over the vocabulary that is *added* to an advantage has no expected gradient: it does not depend on the
sampled token, and the mean of c * grad log P(x) over x is 0. The gap is that of the sampled token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sd_search_verl.objectives.turns import sums


def advantage_factors(
    advantages: Tensor, gaps: Tensor, scored: Tensor, turns: Tensor, alpha: float, bound: float
) -> Tensor:
    """Return the factor of each of N policy tokens' advantage; 1 in turns without scored tokens.

    Args:
        advantages: ``[N]``.
        gaps: ``[N]``, log P_teacher - log P_student of the token; read at scored tokens only.
        scored: ``[N]``, whether the teacher has scored it.
        turns: ``[N]``, number of its turn.
    """
    count = sums(scored.to(gaps.dtype), turns)
    gap = sums(torch.where(scored, gaps.detach(), 0.0), turns) / count.clamp_min(1)
    weight = (advantages.sign() * gap).exp().clamp(1 - bound, 1 + bound)
    return 1 + alpha * (weight - 1)
