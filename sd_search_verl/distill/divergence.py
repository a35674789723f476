"""Divergence between the teacher's and the student's next-token distributions, one value per position.

With P the teacher's and Q the student's distribution over the compared entries, natural logarithms:

    jsd         1/2 KL(P || M) + 1/2 KL(Q || M),  M = (P + Q) / 2      bounded by ln 2
    forward_kl  KL(P || Q)
    reverse_kl  KL(Q || P)
    mse         sum over entries of (P - Q)^2

The compared entries are the full vocabulary, or ``top_k`` of it and what ``tail`` makes of the rest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sd_search_verl.config import Divergence, Support, Tail

_LOG2 = math.log(2.0)
# Stands for -inf where -inf would turn into nan in the backward pass: exp(_FLOOR) is 0.
_FLOOR = -1e30


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    kind: Divergence = "jsd",
    top_k: int | None = 50,
    support: Support = "teacher",
    tail: Tail = "bucket",
) -> Tensor:
    """Divergence at each of N positions; differentiable through the student's logits only.

    Args:
        student_logits: ``[N, V]``, any float type; computed in fp32.
        teacher_logits: ``[N, V]``; no gradient flows into it.
        kind: which divergence, as in the module's head.
        top_k: vocabulary entries compared one by one; None, or at least V, compares all V.
        support: whose ``top_k`` entries: the teacher's, or the union with the student's.
        tail: ``bucket`` adds the remaining mass as one more entry; ``renormalize`` drops it.

    Returns:
        ``[N]`` fp32, in nats (``mse``: squared probability), never negative.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.dim() != 2:
        raise ValueError(
            f"logits must both be [N, V], got {tuple(student_logits.shape)}, {tuple(teacher_logits.shape)}"
        )
    student = student_logits.float()
    with torch.no_grad():
        teacher = teacher_logits.float()
    if top_k is None or top_k >= student.shape[-1]:
        log_q, log_p, valid = student.log_softmax(-1), teacher.log_softmax(-1), None
    else:
        index, valid = _support(student.detach(), teacher, top_k, support)
        log_q = restrict(student, index, valid, tail)
        log_p = restrict(teacher, index, valid, tail)
        if valid is not None and tail == "bucket":
            valid = torch.cat([valid, valid.new_ones(valid.shape[0], 1)], dim=-1)
    return compare(log_p.detach(), log_q, kind, valid)


def _support(student: Tensor, teacher: Tensor, top_k: int, support: Support) -> tuple[Tensor, Tensor | None]:
    """Indices ``[N, K]`` of the compared entries, and which of them count (None: all; a union has duplicates)."""
    theirs = teacher.topk(top_k, dim=-1).indices
    if support == "teacher":
        return theirs, None
    ours = student.topk(top_k, dim=-1).indices
    new = ~(ours.unsqueeze(-1) == theirs.unsqueeze(-2)).any(-1)
    return torch.cat([theirs, ours], dim=-1), torch.cat([torch.ones_like(new), new], dim=-1)


def restrict(logits: Tensor, index: Tensor, valid: Tensor | None, tail: Tail) -> Tensor:
    """Log-probabilities ``[N, K]`` of the entries ``index``, or ``[N, K + 1]`` with the tail's bucket last.

    Args:
        logits: ``[N, V]`` fp32.
        index: ``[N, K]`` entries, K < V.
        valid: ``[N, K]``, False for entries that are there twice; None: all count.
        tail: ``bucket`` or ``renormalize``.
    """
    chosen = logits.gather(-1, index)
    if tail == "bucket":
        # The tail by its own logsumexp: 1 - sum would lose all digits when the tail is small.
        rest = logits.scatter(-1, index, _FLOOR).logsumexp(-1, keepdim=True)
        return torch.cat([chosen, rest], dim=-1) - logits.logsumexp(-1, keepdim=True)
    counted = chosen if valid is None else chosen.masked_fill(~valid, -torch.inf)
    return chosen - counted.logsumexp(-1, keepdim=True)


def compare(log_p: Tensor, log_q: Tensor, kind: Divergence, valid: Tensor | None) -> Tensor:
    """The divergence ``kind`` of log-probabilities ``[N, K]``: ``[N]``, leaving out entries that do not count."""
    p, q = log_p.exp(), log_q.exp()
    if kind == "jsd":
        log_m = torch.logaddexp(log_p, log_q) - _LOG2
        terms = 0.5 * (p * (log_p - log_m) + q * (log_q - log_m))
    elif kind == "forward_kl":
        terms = p * (log_p - log_q)
    elif kind == "reverse_kl":
        terms = q * (log_q - log_p)
    elif kind == "mse":
        terms = (p - q).square()
    else:
        raise ValueError(f"kind={kind!r} is not one of jsd, forward_kl, reverse_kl, mse")
    if valid is not None:
        terms = terms.masked_fill(~valid, 0.0)
    # Rounding can leave a sum a few ulp below zero.
    return terms.sum(-1).clamp_min(0.0)
