"""The fields that carry the method through verl's batches: their names, and typed views of them.

verl moves a batch as named jagged tensors with one row a trajectory. Every row has every field, so a trajectory without
scored tokens has placeholders of length one: position, slot and trace -1, weight 0.

    made by       field                 content of a trajectory's row
    driver        sd_ids                token ids of its teacher rows, one after the other
                  sd_lengths            number of tokens of each teacher row
                  sd_teacher_positions  index into sd_ids of each scored token's logits
                  sd_student_positions  the same in the student's prompt + response
                  sd_flipped_ids, sd_flipped_lengths, sd_flipped_positions
                                        the same of its rows behind inverted labels, where they are needed
                  sd_correct            1 for a CORRECT trajectory, else 0
                  sd_weight             factor of the trajectory's term in L_SD
                  sd_trace              number under which its credit is returned; -1: it is not traced
    worker        sd_slots              index of each scored token among those of the rank's mini-batch, in place of all
                                        these; the teacher's own batches have it too

The fields of ``information_gain`` are in ``actor/gain.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from sd_search_verl.hindsight.teacher_inputs import TeacherInputs

STUDENT_POSITIONS = "sd_student_positions"
TRUE = ("sd_ids", "sd_lengths", "sd_teacher_positions")
FLIPPED = ("sd_flipped_ids", "sd_flipped_lengths", "sd_flipped_positions")
CORRECT = "sd_correct"
WEIGHT = "sd_weight"
TRACE = "sd_trace"
SLOTS = "sd_slots"
NO_SLOT = torch.tensor([-1])
DRIVER = (*TRUE, *FLIPPED, STUDENT_POSITIONS, CORRECT, WEIGHT, TRACE)
"""What :func:`pack` makes."""

ALPHA = "sd_alpha"
"""Non-tensor entry of a batch: this step's alpha. Absent or 0 means an ordinary update."""
POLICY_WEIGHT = "sd_policy_weight"
"""Non-tensor entry of a batch: this step's weight of verl's own loss, 1 if absent."""
MEASURE_LABELS = "sd_measure_labels"
"""Non-tensor entry of a batch: whether it has rows behind inverted labels, to measure what labels do."""
MEASURE_GRAD_SHARE = "sd_measure_grad_share"
"""Non-tensor entry of a batch: whether the size of the method's gradient is measured on its first mini-batch."""


def pack(inputs: TeacherInputs, trace: int = -1) -> dict[str, Tensor]:
    """Return one trajectory's row of every field that the driver makes."""
    student_positions = [position for row in inputs.rows for position in row.student_positions]
    return {
        **pack_rows(TRUE, [(row.input_ids, row.teacher_positions) for row in inputs.rows]),
        **pack_rows(FLIPPED, [(row.input_ids, row.teacher_positions) for row in inputs.flipped]),
        STUDENT_POSITIONS: torch.tensor(student_positions or [-1]),
        WEIGHT: torch.tensor([inputs.weight if inputs.rows else 0.0]),
        CORRECT: torch.tensor([int(inputs.correct)]),
        TRACE: torch.tensor([trace if inputs.rows else -1]),
    }


def pack_rows(names: Sequence[str], rows: Sequence[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    """Return the fields of a trajectory's rows, one after the other; placeholders, -1, for none.

    Args:
        names: of the fields for token ids, lengths and positions.
        rows: token ids of each row, and the positions of its logits.
    """
    ids: list[int] = []
    positions: list[int] = []
    for row, at in rows:
        positions += [len(ids) + position for position in at]
        ids += row
    values = (ids, [len(row) for row, _ in rows], positions)
    return {name: torch.tensor(of_name or [-1]) for name, of_name in zip(names, values, strict=True)}


@dataclass(frozen=True)
class TeacherMiniBatch:
    """One rank's part of a mini-batch as the teacher pass needs it, on the host.

    Attributes:
        rows: teacher sequences.
        positions: per sequence, indices of the logits to keep.
        student_positions: per trajectory, indices of the student's logits to compare, in slot order.
        weights: ``[B]`` trajectory weights.
        traces: ``[B]`` number of the trajectory's trace, -1 if it is not traced.
        correct: ``[B]``, 1 for a CORRECT trajectory.
    """

    rows: list[Tensor]
    positions: list[Tensor]
    student_positions: list[Tensor]
    weights: Tensor
    traces: Tensor
    correct: Tensor

    @classmethod
    def read(cls, data: TensorDict, rows: Sequence[str] = TRUE) -> TeacherMiniBatch:
        """Unpack the driver's fields of a mini-batch; ``rows`` are ``TRUE`` or ``FLIPPED``."""
        packed = zip(*(data[name].cpu().unbind() for name in (*rows, STUDENT_POSITIONS)), strict=True)
        weights, traces, correct = (data[name].values().cpu() for name in (WEIGHT, TRACE, CORRECT))
        batch = cls([], [], [], weights.float(), traces, correct)
        for ids, lengths, teacher, student in packed:
            batch.student_positions.append(student[student >= 0])
            batch.add_rows(ids, lengths, teacher)
        return batch

    def add_rows(self, ids: Tensor, lengths: Tensor, positions: Tensor) -> None:
        """Add a trajectory's rows, which stand one after the other in ``ids``; placeholders add none."""
        start = 0
        for row in ids.split(lengths.tolist()) if int(lengths[0]) >= 0 else ():
            inside = (positions >= start) & (positions < start + len(row))
            self.rows.append(row)
            self.positions.append(positions[inside] - start)
            start += len(row)

    @property
    def tokens_per_trajectory(self) -> Tensor:
        """``[B]`` number of scored tokens."""
        return torch.tensor([len(positions) for positions in self.student_positions])

    def with_slots(self, data: TensorDict) -> TensorDict:
        """Return the mini-batch with the slot of every scored token in place of the driver's fields.

        verl cuts a mini-batch into micro-batches on the host, field by field and row by row: each costs time.
        """
        sizes = self.tokens_per_trajectory.tolist()
        slots = torch.arange(sum(sizes)).split(sizes)
        device, data = data["input_ids"].device, data.exclude(*DRIVER)
        data[SLOTS] = nested([row if len(row) else NO_SLOT for row in slots]).to(device)
        return data


def by_slot(positions: Sequence[Tensor]) -> Tensor:
    """Return positions in slot order, and -1 as the last entry: that of a placeholder's slot, -1."""
    return torch.cat([*positions, NO_SLOT])


def nested(rows: Sequence[Tensor]) -> Tensor:
    """Return rows of different lengths as one jagged tensor."""
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)
