"""What is kept of the teacher between its forward and the student's: named tensors with one row per scored position.

With the default support, the teacher's own top-k, the loss needs K log-probabilities of each position and not V
logits: 600 bytes instead of 300 kB at V = 152,000. The union with the student's top-k, and the full vocabulary, need
the logits themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.entries import Entries, look

Targets = dict[str, Tensor]


@torch.no_grad()
def keep(teacher_logits: Tensor, config: SDSearchConfig, tokens: Tensor | None = None) -> Targets:
    """What :func:`~sd_search_verl.distill.score.score` needs of teacher logits ``[N, V]``, every entry with N rows.

    Args:
        teacher_logits: of any float type; in fp32 for ``config.chunk_rows`` rows at a time only.
        config: ``top_k``, ``support`` and ``tail`` are read.
        tokens: ``[N]``, the tokens that follow.

    Returns:
        ``log_p`` ``[N, K]`` (``[N, K + 1]`` with the tail's bucket) or ``logits`` ``[N, V]``; ``index`` ``[N, K]``
        where there is a top-k; ``entropy`` ``[N]`` nats; ``mass`` ``[N]``, the probability inside the top-k;
        ``top1`` ``[N]``, the most likely token; ``token_log_p`` ``[N]`` of ``tokens``.
    """
    top_k = compared_entries(config, teacher_logits.shape[-1])
    parts: list[Targets] = []
    for start in range(
        0, max(len(teacher_logits), 1), config.chunk_rows
    ):  # an empty batch is one empty chunk
        rows = teacher_logits[start : start + config.chunk_rows]
        index = None if top_k is None else rows.topk(top_k, dim=-1).indices
        entries = None if index is None else Entries(index, config.tail)
        view = look(rows, entries)
        part = {"entropy": view.entropy, "top1": view.top1}
        if index is None:
            part |= {"logits": rows, "mass": torch.ones_like(view.entropy)}
        else:
            assert view.bucket is not None
            part |= {"index": index, "mass": -view.bucket.squeeze(-1).expm1()}
            part |= {"log_p": view.log_probs} if config.support == "teacher" else {"logits": rows}
        if tokens is not None:
            part["token_log_p"] = log_prob_of(tokens[start : start + len(rows)], rows, view.norm)
        parts.append(part)
    return {
        name: teacher_logits if name == "logits" else torch.cat([part[name] for part in parts])
        for name in parts[0]
    }


def compared_entries(config: SDSearchConfig, vocab_size: int) -> int | None:
    """K, or None where all entries are compared."""
    return None if config.top_k is None or config.top_k >= vocab_size else config.top_k


def log_prob_of(tokens: Tensor, logits: Tensor, norm: Tensor) -> Tensor:
    """``[N]`` fp32 log-probabilities of ``tokens`` under ``logits`` ``[N, V]`` with logsumexp ``norm`` ``[N, 1]``."""
    return logits.gather(-1, tokens.unsqueeze(-1)).float().sub(norm).squeeze(-1)
