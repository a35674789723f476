"""What is kept of the teacher between its forward and the student's: named tensors with one row per scored position.

With the default support, the teacher's own top-k, the loss needs K log-probabilities of each position and not V
logits: 600 bytes instead of 300 kB at V = 152,000. The union with the student's top-k, and the full vocabulary, need
the logits themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sd_search_verl.config import Divergence, Support, Tail
from sd_search_verl.distill.divergence import compare, divergence, restrict

Targets = dict[str, Tensor]

CHUNK_ROWS = 256
"""Rows whose fp32 distributions exist at a time; bounds the memory of entropies."""


@torch.no_grad()
def keep(teacher_logits: Tensor, top_k: int | None, support: Support, tail: Tail) -> Targets:
    """What :func:`divergence_to` needs of teacher logits ``[N, V]``, every entry with N rows.

    Either ``logits`` in their own type, or ``index`` ``[N, K]``, ``log_p`` ``[N, K]`` (``[N, K + 1]`` with the tail's
    bucket), and what :func:`diagnostics` reports of the teacher.
    """
    if support != "teacher" or top_k is None or top_k >= teacher_logits.shape[-1]:
        return {"logits": teacher_logits}
    parts = []
    for start in range(0, max(len(teacher_logits), 1), CHUNK_ROWS):  # an empty batch is one empty chunk
        logits = teacher_logits[start : start + CHUNK_ROWS].float()
        index = logits.topk(top_k, dim=-1).indices
        parts.append(
            {"index": index, "log_p": restrict(logits, index, None, tail), **_of_teacher(logits, index)}
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def divergence_to(
    targets: Targets,
    student_logits: Tensor,
    kind: Divergence,
    top_k: int | None,
    support: Support,
    tail: Tail,
) -> Tensor:
    """:func:`~sd_search_verl.distill.divergence.divergence` from what :func:`keep` kept; ``[N]`` fp32."""
    if "logits" in targets:
        return divergence(student_logits, targets["logits"], kind, top_k, support, tail)
    log_q = restrict(student_logits.float(), targets["index"], None, tail)
    return compare(targets["log_p"], log_q, kind, None)


@torch.no_grad()
def diagnostics(targets: Targets, student_logits: Tensor, top_k: int | None) -> Targets:
    """What the two distributions look like at N positions, each ``[N]`` fp32.

    teacher_entropy, student_entropy: nats. top_k_mass: the teacher's probability inside its own ``top_k``.
    teacher_student_top1: 1 where both have the same most likely token.
    """
    parts = []
    for start in range(0, max(len(student_logits), 1), CHUNK_ROWS):
        student = student_logits[start : start + CHUNK_ROWS].float()
        teacher = {name: rows[start : start + CHUNK_ROWS] for name, rows in targets.items()}
        if "logits" in teacher:
            logits = teacher["logits"].float()
            k = logits.shape[-1] if top_k is None else min(top_k, logits.shape[-1])
            teacher = _of_teacher(logits, logits.topk(k, dim=-1).indices)
        parts.append(
            {
                "teacher_entropy": teacher["entropy"],
                "student_entropy": _entropy(student.log_softmax(-1)),
                "top_k_mass": teacher["mass"],
                "teacher_student_top1": (student.argmax(-1) == teacher["top1"]).float(),
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _of_teacher(logits: Tensor, index: Tensor) -> Targets:
    log_p = logits.log_softmax(-1)
    return {
        "entropy": _entropy(log_p),
        "mass": log_p.gather(-1, index).exp().sum(-1),
        "top1": logits.argmax(-1),
    }


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)
