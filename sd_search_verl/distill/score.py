"""The divergence of the student from the kept teacher, row by row, with its gradient found on the way.

Value and gradient need the same distributions, so both come out of one pass, ``chunk_rows`` rows of fp32 at a time.
Between forward and backward only the gradient is kept, in the logits' own type: 2 bytes an entry in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.compare import compare
from sd_search_verl.distill.entries import Entries, all_log_probs, gradient, look, union
from sd_search_verl.distill.targets import Targets, log_prob_of


@dataclass(frozen=True)
class Scores:
    """N scored positions, ``[N]`` fp32 each.

    Attributes:
        divergence: differentiable through the student's logits.
        entropy: the student's, in nats.
        top1_agrees: 1 where teacher and student have the same most likely token.
        token_log_q: the student's log-probability of the token that follows; None if no tokens were given.
    """

    divergence: Tensor
    entropy: Tensor
    top1_agrees: Tensor
    token_log_q: Tensor | None


def score(
    student_logits: Tensor, targets: Targets, config: SDSearchConfig, tokens: Tensor | None = None
) -> Scores:
    """Compare rows of the student's logits with what :func:`~sd_search_verl.distill.targets.keep` kept.

    Args:
        student_logits: ``[N, V]`` of any float type; computed in fp32.
        targets: of the same N positions.
        config: divergence, support and tail.
        tokens: ``[N]``, the tokens that follow.
    """
    divergence, entropy, agrees, log_q = _Score.apply(student_logits, targets, config, tokens)
    return Scores(divergence, entropy, agrees, None if tokens is None else log_q)


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Targets, config: SDSearchConfig, tokens: Tensor | None
    ) -> tuple[Tensor, ...]:
        # One column each: divergence, entropy, agreement, log-probability of the token.
        columns = torch.zeros(4, len(logits), device=logits.device)
        slopes = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for start in range(0, len(logits), config.chunk_rows):
            chunk = slice(start, start + config.chunk_rows)
            rows, teacher = logits[chunk], {name: values[chunk] for name, values in targets.items()}
            entries = _entries(rows, teacher, config)
            view = look(rows, entries)
            log_p = teacher.get("log_p")
            if log_p is None:
                theirs = teacher["logits"]
                log_p = all_log_probs(theirs) if entries is None else look(theirs, entries).log_probs
            valid = None if entries is None else entries.compared
            columns[0, chunk], slope = compare(log_p, view.log_probs, view.probs, config.divergence, valid)
            columns[1, chunk] = view.entropy
            columns[2, chunk] = view.top1 == teacher["top1"]
            if tokens is not None:
                columns[3, chunk] = log_prob_of(tokens[chunk], rows, view.norm)
            if slopes is not None:
                slopes[chunk] = gradient(view, entries, slope)
        ctx.slopes, ctx.chunk_rows = slopes, config.chunk_rows
        divergence, *others = columns.unbind()
        ctx.mark_non_differentiable(*others)
        return (divergence, *others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        slopes, ctx.slopes = ctx.slopes, None  # not kept: a second backward would find it scaled
        if slopes is None:
            raise RuntimeError("the divergence was differentiated a second time; compute it anew")
        for rows, scale in zip(slopes.split(ctx.chunk_rows), upstream.split(ctx.chunk_rows), strict=True):
            rows.mul_(scale.unsqueeze(-1))  # of two types, so in fp32
        return slopes, None, None, None


def _entries(rows: Tensor, teacher: Targets, config: SDSearchConfig) -> Entries | None:
    if "index" not in teacher:
        return None
    if config.support == "union":
        return union(teacher["index"], rows, config.tail)
    return Entries(teacher["index"], config.tail)
