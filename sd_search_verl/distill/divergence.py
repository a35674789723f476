"""Divergence between the teacher's and the student's next-token distributions, one value per position."""

from __future__ import annotations

from torch import Tensor

from sd_search_verl.config import Divergence, SDSearchConfig, Support, Tail
from sd_search_verl.distill.score import score
from sd_search_verl.distill.targets import keep


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    kind: Divergence = "jsd",
    top_k: int | None = 50,
    support: Support = "teacher",
    tail: Tail = "bucket",
) -> Tensor:
    """Divergence at each of N positions; differentiable, once, through the student's logits only.

    Args:
        student_logits: ``[N, V]``, any float type; computed in fp32.
        teacher_logits: ``[N, V]``; no gradient flows into it.
        kind: see :mod:`sd_search_verl.distill.compare`.
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
    config = SDSearchConfig(divergence=kind, top_k=top_k, support=support, tail=tail)
    return score(student_logits, keep(teacher_logits, config), config).divergence
