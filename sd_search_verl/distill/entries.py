"""Which vocabulary entries are compared, and rows of logits seen through them.

All entries, or some of them and, with ``tail="bucket"``, the mass of all others as one more; with
``tail="renormalize"`` the others are dropped. Distributions exist in fp32 for a few rows at a time only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sd_search_verl.config import Tail

# Stands for -inf where -inf would turn into nan: exp(_FLOOR) is 0.
_FLOOR = -1e30


@dataclass(frozen=True)
class Entries:
    """The compared entries of N rows: ``index`` ``[N, K]``; of a union's duplicates only one is ``valid``."""

    index: Tensor
    tail: Tail
    valid: Tensor | None = None

    @property
    def compared(self) -> Tensor | None:
        """Which of the compared log-probabilities count, ``[N, K]`` or ``[N, K + 1]``; None: all."""
        if self.valid is None or self.tail == "renormalize":
            return self.valid
        return torch.cat([self.valid, self.valid.new_ones(len(self.valid), 1)], dim=-1)


@dataclass(frozen=True)
class View:
    """Rows of logits seen through their entries.

    Attributes:
        log_probs: of the compared entries, ``[N, V]``, ``[N, K]`` or, with the tail's bucket last, ``[N, K + 1]``.
        probs: their exponentials.
        entropy: ``[N]`` nats, of the whole distribution.
        top1: ``[N]``, the most likely token.
        norm: ``[N, 1]``, the logsumexp of the whole row.
        share: ``[N, V]``, each entry's share of the tail, 0 at compared entries; None where all are compared.
        bucket: ``[N, 1]``, the tail's log-probability.
    """

    log_probs: Tensor
    probs: Tensor
    entropy: Tensor
    top1: Tensor
    norm: Tensor
    share: Tensor | None = None
    bucket: Tensor | None = None


def union(teacher: Tensor, logits: Tensor, tail: Tail) -> Entries:
    """The teacher's entries ``[N, K]`` and as many most likely ones of ``logits`` ``[N, V]``."""
    ours = logits.topk(teacher.shape[-1], dim=-1).indices
    new = ~(ours.unsqueeze(-1) == teacher.unsqueeze(-2)).any(-1)
    return Entries(torch.cat([teacher, ours], dim=-1), tail, torch.cat([torch.ones_like(new), new], dim=-1))


def all_log_probs(logits: Tensor) -> Tensor:
    """Of every entry, ``[N, V]`` fp32; finite, also where a logit is -inf."""
    return logits.log_softmax(-1, dtype=torch.float32).clamp_min_(_FLOOR)


def look(logits: Tensor, entries: Entries | None) -> View:
    """Rows ``[N, V]`` of any float type, in fp32 through ``entries`` (None: all V)."""
    highest, top1 = logits.max(-1, keepdim=True)
    if entries is None:
        log_probs = all_log_probs(logits)
        norm = highest - log_probs.gather(-1, top1)
        probs = log_probs.exp()
        return View(log_probs, probs, -(probs * log_probs).sum(-1), top1.squeeze(-1), norm)
    # Before logsumexp, whose value would take the digits of a large logit.
    logits = logits.to(torch.float32, copy=True).sub_(highest)
    chosen = logits.gather(-1, entries.index)
    if entries.valid is not None:
        chosen = chosen.masked_fill(~entries.valid, _FLOOR)
    inside = chosen.logsumexp(-1, keepdim=True)
    # The tail by a logsumexp of its own: 1 - sum would lose all digits when the tail is small.
    logits.scatter_(-1, entries.index, _FLOOR)
    outside = logits.logsumexp(-1, keepdim=True)
    norm = torch.logaddexp(inside, outside)
    bucket = outside - norm
    log_share = logits.sub_(outside).clamp_min_(_FLOOR)
    share = log_share.exp()
    log_probs = chosen - norm
    # -sum p log p over the entries, then over the tail, whose p = exp(bucket) * share.
    within = -log_share.mul_(share).sum(-1, keepdim=True)
    entropy = torch.special.entr(log_probs.exp()).sum(-1, keepdim=True) + bucket.exp() * (within - bucket)
    shown = torch.cat([log_probs, bucket], dim=-1) if entries.tail == "bucket" else chosen - inside
    return View(shown, shown.exp(), entropy.squeeze(-1), top1.squeeze(-1), norm + highest, share, bucket)


def gradient(view: View, entries: Entries | None, slope: Tensor) -> Tensor:
    """Derivative to the logits, ``[N, V]``, of what has ``slope`` to the compared log-probabilities.

    log q_i = z_i - logsumexp(z), so dz_j = slope_j - q_j sum(slope), and the bucket's slope is spread over the tail by
    its entries' shares. Overwrites ``view.share`` and ``view.probs``.
    """
    total = slope.sum(-1, keepdim=True)
    direct = slope.sub_(view.probs.mul_(total))
    if entries is None:
        return direct
    assert view.share is not None
    if entries.tail == "bucket":
        dense, direct = view.share.mul_(direct[:, -1:]), direct[:, :-1]
    else:
        dense = view.share.zero_()
    if entries.valid is not None:
        direct = direct.masked_fill(~entries.valid, 0.0)
    return dense.scatter_add_(-1, entries.index, direct)
