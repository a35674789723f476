"""Records of a training step of :mod:`.reference`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from sd_search_verl.hindsight.teacher_inputs import TeacherInputs
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.world.facts import Question


@dataclass(frozen=True)
class MiniBatch:
    """One update: L_GRPO, with the regularizer as ``policy``, L_SD, and the logits at its query tokens."""

    grpo: Tensor
    policy: Tensor
    sd: Tensor
    student_logits: Tensor
    teacher_logits: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """Record of one training step, passed to the ``after_step`` callback.

    Attributes:
        number: counted from 1.
        asked: the question of each of the B rollouts.
        rewards: ``[B]``.
        inputs: the teacher's rows of each rollout; the M query tokens below stand in their order.
        student_logits: ``[M, V]`` before the update of its mini-batch.
        teacher_logits: ``[M, V]``, or None where alpha is 0.
        losses: L_GRPO and L_SD, their means over mini-batches.
    """

    number: int
    asked: Sequence[Question]
    batch: Sequence[Rollout]
    rewards: Tensor
    inputs: Sequence[TeacherInputs]
    student_logits: Tensor
    teacher_logits: Tensor | None
    losses: tuple[float, float]

    @classmethod
    def of(
        cls,
        number: int,
        asked: Sequence[Question],
        batch: Sequence[Rollout],
        rewards: Tensor,
        inputs: Sequence[TeacherInputs],
        parts: Sequence[MiniBatch],
    ) -> Step:
        """Return the record of a step made of these mini-batches."""
        taught = [part.teacher_logits for part in parts if part.teacher_logits is not None]
        losses = (
            fmean(float(part.grpo.detach()) for part in parts),
            fmean(float(part.sd.detach()) for part in parts),
        )
        students = torch.cat([part.student_logits for part in parts])
        return cls(
            number, asked, batch, rewards, inputs, students, torch.cat(taught) if taught else None, losses
        )
