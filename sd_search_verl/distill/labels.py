"""What the labels of a block do to the teacher's credit: label sensitivity and copy share.

With c_true and c_flipped the credits of a query token behind the block and behind its labels inverted, in nats:

    label sensitivity   y (c_true - c_flipped), y = +1 in CORRECT rollouts and -1 in INCORRECT ones; mean over tokens,
                        then over rollouts. What the labels, and nothing else, do to the tokens that were sampled.
    copy share          sum |m| / sum (|m| + |d|) over all tokens, with m = (c_true + c_flipped) / 2, which is the
                        same whichever way the labels stand, and d = (c_true - c_flipped) / 2, which they decide.
"""

from __future__ import annotations

import torch
from torch import Tensor


def label_sums(credit: Tensor, shift: Tensor, counts: Tensor, correct: Tensor) -> Tensor:
    """Return the sums ``[4]`` that :func:`label_measures` reads; those of parts of a batch add up to the batch's.

    Args:
        credit: ``[n]`` c_true of every scored token, rollout by rollout.
        shift: ``[n]`` c_true - c_flipped, which is log P_true - log P_flipped of the teacher alone.
        counts: ``[rollouts]`` scored tokens of each rollout, n in all; a rollout without any is left out.
        correct: ``[rollouts]`` whether each is CORRECT.
    """
    counts = counts.to(shift.device)
    sign = 2.0 * correct.to(shift.device) - 1.0
    per_token = (sign / counts.clamp_min(1)).repeat_interleave(counts)
    labelled, copied = (shift / 2).abs().sum(), (credit - shift / 2).abs().sum()
    return torch.stack([(per_token * shift).sum(), (counts > 0).sum().float(), copied, labelled])


def label_measures(sums: Tensor) -> tuple[float, float]:
    """Return label sensitivity in nats a token, and copy share in [0, 1]: 0 where the block changes nothing."""
    sensitivity, rollouts, copied, labelled = sums
    share = float(copied / (copied + labelled)) if copied + labelled > 0 else 0.0
    return float(sensitivity / rollouts.clamp_min(1)), share
