"""The support of the divergence: which vocabulary entries are compared, and their log-probabilities.

The support is the whole vocabulary, or K entries of each position. The other entries, the tail, either form one more
entry (``tail="bucket"``) or are dropped and the rest renormalised (``tail="renormalize"``):

    log q_i    = z_i - logsumexp(z)                           i in the support, z the logits
    log q_tail = logsumexp over the others - logsumexp(z)     ("bucket")

Everything is computed in fp32, for a few rows at a time: one fp32 row of V = 152,000 takes 0.6 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from sd_search_verl.config import SDSearchConfig, Tail
from sd_search_verl.distill import fused

_FLOOR = -1e30
"""Replaces -inf, whose differences are NaN; exp(_FLOOR) is 0."""


@dataclass(frozen=True)
class Support:
    """The compared entries of N positions.

    Attributes:
        index: ``[N, K]`` vocabulary entries, ascending.
        tail: treatment of all other entries.
        valid: ``[N, K]``, False at duplicates in a union; None if all entries are valid.
    """

    index: Tensor
    tail: Tail
    valid: Tensor | None = None

    @property
    def valid_index(self) -> Tensor:
        """``index`` with -1 at entries that are not valid."""
        return self.index if self.valid is None else self.index.masked_fill(~self.valid, -1)


@dataclass(frozen=True)
class SupportLogProbs:
    """Log-probabilities of N rows of logits on their support.

    Attributes:
        log_probs: ``[N, V]``, ``[N, K]`` or, with the tail's bucket last, ``[N, K + 1]``.
        probs: their exponentials.
        entropy: ``[N]`` nats, of the whole distribution.
        top1: ``[N]``, the most likely token.
        logsumexp: ``[N, 1]``, of the whole row.
        tail_probs: ``[N, V]``, probabilities given the tail, 0 on the support; None without a tail.
        tail_log_prob: ``[N, 1]``, log-probability of the tail; None without a tail.
    """

    log_probs: Tensor
    probs: Tensor
    entropy: Tensor
    top1: Tensor
    logsumexp: Tensor
    tail_probs: Tensor | None = None
    tail_log_prob: Tensor | None = None


@dataclass(frozen=True)
class TeacherTargets:
    """The teacher at N scored positions, as it is stored between its forward and the student's.

    With the teacher's own top-k as support, K log-probabilities of a position replace V logits: 600 bytes instead of
    300 kB at V = 152,000. The union with the student's top-k and the full vocabulary need the logits.

    Attributes:
        entropy: ``[N]`` nats.
        top_k_mass: ``[N]``, probability inside the top-k.
        top1: ``[N]``, the most likely token.
        index: ``[N, K]``, the top-k entries, ascending; None if the whole vocabulary is compared.
        log_probs: ``[N, K]`` or ``[N, K + 1]``; None if ``logits`` are stored.
        logits: ``[N, V]``; None if ``log_probs`` are stored.
        token_log_prob: ``[N]``, log-probability of the token that follows; None if no tokens were given.
        flipped_log_prob: ``[N]``, the same behind inverted labels; None unless ``gate=labels``.
    """

    entropy: Tensor
    top_k_mass: Tensor
    top1: Tensor
    index: Tensor | None = None
    log_probs: Tensor | None = None
    logits: Tensor | None = None
    token_log_prob: Tensor | None = None
    flipped_log_prob: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """Return the stored tensors in the order of the attributes."""
        return [value for field in fields(self) if (value := getattr(self, field.name)) is not None]

    def __getitem__(self, rows: slice) -> TeacherTargets:
        return self.map(lambda values: values[rows])

    def map(self, function: Callable[[Tensor], Tensor]) -> TeacherTargets:
        """Return targets with ``function`` applied to every stored tensor."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: function(value) for name, value in values.items() if value is not None})


@torch.no_grad()
def teacher_targets(
    teacher_logits: Tensor, config: SDSearchConfig, tokens: Tensor | None = None
) -> TeacherTargets:
    """Reduce teacher logits ``[N, V]`` of any float type to what the divergence needs of them.

    Args:
        teacher_logits: converted to fp32 for ``config.chunk_rows`` rows at a time.
        config: ``top_k``, ``support`` and ``tail`` are read.
        tokens: ``[N]``, the tokens that follow.
    """
    stores_logits = effective_top_k(config, teacher_logits.shape[-1]) is None or config.support == "union"
    parts = []
    for chunk in row_chunks(teacher_logits, config):
        part = _chunk_targets(teacher_logits[chunk], config, None if tokens is None else tokens[chunk])
        parts.append(replace(part, log_probs=None) if stores_logits else part)
    targets = _concatenate(parts)
    return replace(targets, logits=teacher_logits) if stores_logits else targets


def row_chunks(logits: Tensor, config: SDSearchConfig) -> list[slice]:
    """Return the rows of logits ``[N, V]`` to treat at a time: all of them where kernels make no fp32 copies."""
    rows = max(len(logits), 1)  # an empty batch is one empty chunk, which has the right shapes
    size = rows if fused.usable(logits) else config.chunk_rows
    return [slice(start, start + size) for start in range(0, rows, size)]


def _chunk_targets(logits: Tensor, config: SDSearchConfig, tokens: Tensor | None) -> TeacherTargets:
    top_k = effective_top_k(config, logits.shape[-1])
    index = None if top_k is None else _top_entries(logits, top_k)
    values: fused.RowLogProbs | SupportLogProbs
    if fused.usable(logits):
        values = fused.row_log_probs(logits, index, config.tail == "bucket")
    else:
        values = log_probs_on_support(logits, None if index is None else Support(index, config.tail))
    tail = values.tail_log_prob
    mass = torch.ones_like(values.entropy) if index is None or tail is None else -tail.squeeze(-1).expm1()
    token_log_prob = None if tokens is None else selective_log_prob(logits, tokens, values.logsumexp)
    return TeacherTargets(
        values.entropy, mass, values.top1, index, values.log_probs, token_log_prob=token_log_prob
    )


def _concatenate(parts: Sequence[TeacherTargets]) -> TeacherTargets:
    if len(parts) == 1:
        return parts[0]
    columns = iter([torch.cat(rows) for rows in zip(*(part.tensors() for part in parts), strict=True)])
    return parts[0].map(lambda _: next(columns))


def effective_top_k(config: SDSearchConfig, vocab_size: int) -> int | None:
    """Return K, or None if all V entries are compared."""
    return None if config.top_k is None or config.top_k >= vocab_size else config.top_k


def union_support(teacher_index: Tensor, student_logits: Tensor, tail: Tail) -> Support:
    """Return the union of the teacher's top-k ``[N, K]`` with the student's top-k of logits ``[N, V]``."""
    ours = _top_entries(student_logits, teacher_index.shape[-1])
    index = torch.cat([teacher_index, ours], dim=-1).sort(-1).values
    first = torch.ones_like(index[:, :1], dtype=torch.bool)
    return Support(index, tail, torch.cat([first, index.diff(dim=-1) != 0], dim=-1))


def _top_entries(logits: Tensor, count: int) -> Tensor:
    """Return the ``count`` likeliest entries of each row, ascending."""
    return logits.topk(count, dim=-1, sorted=False).indices.sort(-1).values


def finite_log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities ``[N, V]`` in fp32; a logit of -inf gives a large negative number, not -inf."""
    return logits.log_softmax(-1, dtype=torch.float32).clamp_min_(_FLOOR)


def selective_log_prob(logits: Tensor, tokens: Tensor, logsumexp: Tensor) -> Tensor:
    """Return ``[N]`` fp32 log-probabilities of ``tokens`` ``[N]`` for logits ``[N, V]``, logsumexp ``[N, 1]``."""
    return logits.gather(-1, tokens.unsqueeze(-1)).float().sub(logsumexp).squeeze(-1)


def log_probs_on_support(logits: Tensor, support: Support | None) -> SupportLogProbs:
    """Return the log-probabilities of logits ``[N, V]``, any float type, on ``support`` (None: all V entries)."""
    highest, top1 = logits.max(-1, keepdim=True)
    if support is None:
        log_probs = finite_log_softmax(logits)
        logsumexp = highest - log_probs.gather(-1, top1)
        probs = log_probs.exp()
        entropy = -(probs * log_probs).sum(-1)
        return SupportLogProbs(log_probs, probs, entropy, top1.squeeze(-1), logsumexp)
    # Subtracted before logsumexp: a large logit would take the digits of its result.
    logits = logits.to(torch.float32, copy=True).sub_(highest)
    chosen = logits.gather(-1, support.index).clamp_min_(_FLOOR)
    if support.valid is not None:
        chosen = chosen.masked_fill(~support.valid, _FLOOR)
    inside = chosen.logsumexp(-1, keepdim=True)
    # The tail has a logsumexp of its own: 1 - sum(probs) loses all digits when the tail is small.
    logits.scatter_(-1, support.index, _FLOOR)
    outside = logits.logsumexp(-1, keepdim=True)
    logsumexp = torch.logaddexp(inside, outside)
    tail_log_prob = outside - logsumexp
    log_tail_probs = logits.sub_(outside).clamp_min_(_FLOOR)
    tail_probs = log_tail_probs.exp()
    log_probs = chosen - logsumexp
    # Entropy: -sum p log p over the support, then over the tail with p = exp(tail_log_prob) * tail_probs.
    tail_entropy = -log_tail_probs.mul_(tail_probs).sum(-1, keepdim=True)
    entropy = torch.special.entr(log_probs.exp()).sum(-1, keepdim=True)
    entropy = entropy + tail_log_prob.exp() * (tail_entropy - tail_log_prob)
    compared = torch.cat([log_probs, tail_log_prob], dim=-1) if support.tail == "bucket" else chosen - inside
    return SupportLogProbs(
        compared,
        compared.exp(),
        entropy.squeeze(-1),
        top1.squeeze(-1),
        logsumexp + highest,
        tail_probs,
        tail_log_prob,
    )


def logits_gradient(values: SupportLogProbs, support: Support | None, grad_log_q: Tensor) -> Tensor:
    """Return the derivative to the logits, ``[N, V]``, given the one to the compared log-probabilities.

    With log q_i = z_i - logsumexp(z):  dz_j = grad_j - q_j * sum(grad). The bucket's gradient is distributed over the
    tail by ``tail_probs``. Overwrites ``grad_log_q``, ``values.probs`` and ``values.tail_probs`` to save ``[N, V]``
    buffers.
    """
    total = grad_log_q.sum(-1, keepdim=True)
    direct = grad_log_q.sub_(values.probs.mul_(total))
    if support is None:
        return direct
    assert values.tail_probs is not None
    if support.tail == "bucket":
        dense, direct = values.tail_probs.mul_(direct[:, -1:]), direct[:, :-1]
    else:
        dense = values.tail_probs.zero_()
    return dense.scatter_add_(-1, support.index, direct)
