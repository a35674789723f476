"""Divergence between the teacher's and the student's next-token distributions at each position.

With P the teacher's and Q the student's distribution over the support (see :mod:`.support`), in nats:

    jsd         1/2 KL(P || M) + 1/2 KL(Q || M),  M = (P + Q) / 2      bounded by ln 2
    forward_kl  KL(P || Q)
    reverse_kl  KL(Q || P)
    mse         sum over entries of (P - Q)^2

Training calls :func:`divergence_and_stats`. Value and gradient need the same distributions, so one pass makes both, for
``chunk_rows`` rows of fp32 at a time; between forward and backward only the gradient is stored, in the logits' type.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sd_search_verl.config import Divergence, SDSearchConfig, SupportKind, Tail
from sd_search_verl.distill import fused
from sd_search_verl.distill.support import (
    Support,
    SupportLogProbs,
    TeacherTargets,
    finite_log_softmax,
    log_probs_on_support,
    logits_gradient,
    row_chunks,
    selective_log_prob,
    teacher_targets,
    union_support,
)

_DEFAULT = SDSearchConfig()


@dataclass(frozen=True)
class StudentStats:
    """The student at N positions, ``[N]`` fp32 each; no gradient flows through them.

    Attributes:
        entropy: in nats.
        top1_agrees: 1 where teacher and student have the same most likely token.
        token_log_prob: the log-probability of the tokens that follow; zeros where none were given.
    """

    entropy: Tensor
    top1_agrees: Tensor
    token_log_prob: Tensor


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor | TeacherTargets,
    kind: Divergence = _DEFAULT.divergence,
    top_k: int | None = _DEFAULT.top_k,
    support: SupportKind = _DEFAULT.support,
    tail: Tail = _DEFAULT.tail,
    *,
    chunk_rows: int = _DEFAULT.chunk_rows,
) -> Tensor:
    """Return the divergence at each of N positions, differentiable once, through the student's logits only.

    Args:
        student_logits: ``[N, V]``, any float type; computed in fp32.
        teacher_logits: ``[N, V]``, no gradient flows into it; or what
            :func:`~sd_search_verl.distill.support.teacher_targets` kept of it under the same options.
        kind: a formula of the module's head.
        top_k: vocabulary entries compared one by one; None, or at least V, compares all V.
        support: the teacher's ``top_k`` entries, or their union with the student's.
        tail: ``bucket`` adds the remaining mass as one more entry; ``renormalize`` drops it.
        chunk_rows: rows whose fp32 distributions exist at a time.

    Returns:
        ``[N]`` fp32, in nats (``mse``: squared probability), never negative.
    """
    config = _config(kind, top_k, support, tail, chunk_rows)
    return divergence_and_stats(student_logits, teacher_logits, config)[0]


def divergence_and_stats(
    student_logits: Tensor,
    teacher_logits: Tensor | TeacherTargets,
    config: SDSearchConfig,
    tokens: Tensor | None = None,
) -> tuple[Tensor, StudentStats]:
    """Return :func:`divergence` by the options of ``config``, and what the same pass finds about the student.

    Args:
        tokens: ``[N]``, the tokens that follow; None if their log-probabilities are not asked for.
    """
    if isinstance(teacher_logits, Tensor):
        if student_logits.shape != teacher_logits.shape or student_logits.dim() != 2:
            shapes = f"{tuple(student_logits.shape)}, {tuple(teacher_logits.shape)}"
            raise ValueError(f"logits must both be [N, V], got {shapes}")
        teacher_logits = teacher_targets(teacher_logits, config)
    values, *stats = _Divergence.apply(student_logits, teacher_logits, config, tokens)
    return values, StudentStats(*stats)


@lru_cache
def _config(
    kind: Divergence, top_k: int | None, support: SupportKind, tail: Tail, chunk_rows: int
) -> SDSearchConfig:
    """Return the options, validated once for all calls."""
    return SDSearchConfig(divergence=kind, top_k=top_k, support=support, tail=tail, chunk_rows=chunk_rows)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: TeacherTargets, config: SDSearchConfig, tokens: Tensor | None
    ) -> tuple[Tensor, ...]:
        grad_logits = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        compute = _by_kernels if fused.usable(logits) else _plain
        parts = []
        for chunk in row_chunks(logits, config):
            following = None if tokens is None else tokens[chunk]
            out = None if grad_logits is None else grad_logits[chunk]
            parts.append(compute(logits[chunk], targets[chunk], following, config, out))
        ctx.grad_logits, ctx.config = grad_logits, config
        values, *others = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        ctx.mark_non_differentiable(*others)
        return (values, *others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        grad_logits, ctx.grad_logits = ctx.grad_logits, None  # scaled in place, so it serves one backward
        if grad_logits is None:
            raise RuntimeError("the divergence was differentiated a second time; compute it anew")
        for chunk in row_chunks(grad_logits, ctx.config):
            # bf16 rows times an fp32 scale: torch multiplies in fp32
            grad_logits[chunk].mul_(grad_values[chunk].unsqueeze(-1))
        return grad_logits, None, None, None


def _plain(
    logits: Tensor, teacher: TeacherTargets, tokens: Tensor | None, config: SDSearchConfig, out: Tensor | None
) -> tuple[Tensor, ...]:
    """Return divergences ``[N]`` and the student's statistics, and write the derivative to ``logits`` to ``out``."""
    support = _support(logits, teacher, config)
    student = log_probs_on_support(logits, support)
    values, grad_log_q = divergence_and_grad(
        _teacher_log_probs(teacher, support),
        student.log_probs,
        student.probs,
        config.divergence,
    )
    statistics = _statistics(student, teacher, logits, tokens)
    if out is not None:
        out.copy_(logits_gradient(student, support, grad_log_q))
    return values, *statistics


def _by_kernels(
    logits: Tensor, teacher: TeacherTargets, tokens: Tensor | None, config: SDSearchConfig, out: Tensor | None
) -> tuple[Tensor, ...]:
    """Do what :func:`_plain` does, by kernels."""
    support = _support(logits, teacher, config)
    ascending = None if support is None else support.index
    index = None if support is None else support.valid_index
    options = (index, config.tail == "bucket", ascending)
    student = fused.row_log_probs(logits, *options)
    of_teacher = None if teacher.logits is None else fused.row_log_probs(teacher.logits, *options)
    if index is None:
        assert teacher.logits is not None
        assert of_teacher is not None
        values = fused.whole_divergence(logits, teacher.logits, config.divergence, student, of_teacher, out)
    else:
        log_p = teacher.log_probs if of_teacher is None else of_teacher.log_probs
        assert log_p is not None
        values, gradient = fused.support_divergence(log_p, student.log_probs, index, config.divergence)
        if out is not None:
            fused.write_gradient(logits, student, index, gradient, out)
    return values, *_statistics(student, teacher, logits, tokens)


def _statistics(
    student: SupportLogProbs | fused.RowLogProbs,
    teacher: TeacherTargets,
    logits: Tensor,
    tokens: Tensor | None,
) -> tuple[Tensor, ...]:
    """Return entropy, agreement of the most likely token, and the tokens' log-probability, ``[N]`` fp32 each."""
    token_log_prob = torch.zeros_like(student.entropy)
    if tokens is not None:
        token_log_prob = selective_log_prob(logits, tokens, student.logsumexp)
    return student.entropy, (student.top1 == teacher.top1).float(), token_log_prob


def _support(student_logits: Tensor, teacher: TeacherTargets, config: SDSearchConfig) -> Support | None:
    if teacher.index is None:
        return None
    if config.support == "union":
        return union_support(teacher.index, student_logits, config.tail)
    return Support(teacher.index, config.tail)


def _teacher_log_probs(teacher: TeacherTargets, support: Support | None) -> Tensor:
    if teacher.log_probs is not None:
        return teacher.log_probs
    assert teacher.logits is not None
    if support is None:
        return finite_log_softmax(teacher.logits)
    return log_probs_on_support(teacher.logits, support).log_probs


def divergence_and_grad(log_p: Tensor, log_q: Tensor, q: Tensor, kind: Divergence) -> tuple[Tensor, Tensor]:
    """Return the divergence of each row and its derivative to ``log_q``, all entries of ``log_q`` taken as free.

    An entry of -1e30 in both, as :mod:`.support` marks those that do not count, adds exactly 0 to either.

    Args:
        log_p: the teacher's log-probabilities, ``[N, K]`` fp32.
        log_q: the student's, ``[N, K]`` fp32.
        q: ``exp(log_q)``.
        kind: a formula of the module's head.

    Returns:
        ``[N]`` in nats (``mse``: squared probability), and ``[N, K]``.
    """
    if kind == "jsd":
        log_ratio = log_q - log_p
        # With x = log_ratio and t = log((1 + e^-|x|) / 2): log(M / P) = max(x, 0) + t, log(Q / M) = min(x, 0) - t.
        # So equal distributions have exactly zero divergence and gradient, and close ones keep their digits.
        t = log_ratio.abs().neg_().expm1_().mul_(0.5).log1p_()
        grad = log_ratio.clamp_max(0.0).sub_(t).mul_(q).mul_(0.5)
        log_ratio.clamp_min_(0.0).add_(t)
        del t  # [N, V] where the whole vocabulary is compared
        terms = log_ratio.mul_(log_p.exp()).mul_(-0.5).add_(grad)
    elif kind == "forward_kl":
        p = log_p.exp()
        grad, terms = -p, p * (log_p - log_q)
    elif kind == "reverse_kl":
        terms = q * (log_q - log_p)
        grad = terms + q
    elif kind == "mse":
        difference = q - log_p.exp()
        grad, terms = 2 * difference * q, difference.square()
    else:
        raise ValueError(f"kind={kind!r} is not one of jsd, forward_kl, reverse_kl, mse")
    # Rounding can leave a sum a few ulp below zero.
    return terms.sum(-1).clamp_min(0.0), grad
