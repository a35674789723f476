"""The divergences, as functions of log-probabilities: their values, and their slopes for the backward pass.

With P the teacher's and Q the student's distribution over the compared entries, natural logarithms:

    jsd         1/2 KL(P || M) + 1/2 KL(Q || M),  M = (P + Q) / 2      bounded by ln 2
    forward_kl  KL(P || Q)
    reverse_kl  KL(Q || P)
    mse         sum over entries of (P - Q)^2
"""

from __future__ import annotations

from torch import Tensor

from sd_search_verl.config import Divergence


def compare(
    log_p: Tensor, log_q: Tensor, q: Tensor, kind: Divergence, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The divergence of each row and its slope.

    Args:
        log_p: the teacher's log-probabilities, ``[N, K]`` fp32.
        log_q: the student's, ``[N, K]`` fp32.
        q: their exponentials.
        kind: which divergence.
        valid: ``[N, K]``, False for entries that do not count; None: all do.

    Returns:
        ``[N]`` in nats (``mse``: squared probability), and ``[N, K]``, its derivative to ``log_q`` with all entries
        of ``log_q`` taken as free.
    """
    if kind == "jsd":
        ahead = log_q - log_p
        # With x = ahead and t = log((1 + e^-|x|) / 2): log(M / P) = max(x, 0) + t and log(Q / M) = min(x, 0) - t. Equal
        # distributions so have exactly no divergence and no slope, and close ones keep their digits.
        t = ahead.abs().neg_().expm1_().mul_(0.5).log1p_()
        slope = ahead.clamp_max(0.0).sub_(t).mul_(q).mul_(0.5)
        ahead.clamp_min_(0.0).add_(t)
        del t  # all are [N, V] where the whole vocabulary is compared
        terms = ahead.mul_(log_p.exp()).mul_(-0.5).add_(slope)
    elif kind == "forward_kl":
        p = log_p.exp()
        slope, terms = -p, p * (log_p - log_q)
    elif kind == "reverse_kl":
        terms = q * (log_q - log_p)
        slope = terms + q
    elif kind == "mse":
        difference = q - log_p.exp()
        slope, terms = 2 * difference * q, difference.square()
    else:
        raise ValueError(f"kind={kind!r} is not one of jsd, forward_kl, reverse_kl, mse")
    if valid is not None:
        slope, terms = slope.masked_fill(~valid, 0.0), terms.masked_fill(~valid, 0.0)
    # Rounding can leave a sum a few ulp below zero.
    return terms.sum(-1).clamp_min(0.0), slope
