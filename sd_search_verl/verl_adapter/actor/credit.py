"""Collect the credit of traced rollouts' tokens, from the workers' loss to the driver's ``traces.jsonl``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sd_search_verl.hindsight.teacher_inputs import TeacherInputs
from sd_search_verl.rollout.types import Rollout

Values = list[tuple[float, float]]
"""Credit (nats) and divergence of a rollout's scored tokens, in the order of their student positions."""


class CreditRecord:
    """Credit and divergence of each scored token of a mini-batch, on the device of its micro-batches."""

    def __init__(self, num_slots: int, device: torch.device | int) -> None:
        # The last row takes the placeholders: to leave them out, the host would wait for the device.
        self._values = torch.full((num_slots + 1, 2), torch.nan, device=device)

    def add(self, slots: Tensor, log_ratio: Tensor, divergence: Tensor) -> None:
        """Add a micro-batch: ``[n]`` slots (-1: a placeholder), log P_teacher - log P_student, divergence."""
        values = torch.stack([log_ratio, divergence.detach()], dim=-1).float()
        self._values.index_copy_(0, slots.remainder(len(self._values)), values)

    def credits(self) -> Tensor:
        """Return the credit ``[num_slots]`` of every scored token."""
        return self._values[:-1, 0]

    def of(self, traces: Tensor, tokens_per_trajectory: Tensor) -> dict[int, Values]:
        """Return the values by trace number; ``traces`` ``[B]`` is -1 where a trajectory is not traced."""
        parts = self._values[:-1].cpu().split(tokens_per_trajectory.tolist())
        return {
            trace: [(ratio, divergence) for ratio, divergence in part.tolist()]
            for trace, part in zip(traces.tolist(), parts, strict=True)
            if trace >= 0
        }


@dataclass(frozen=True)
class SpanCredit:
    """A rollout's credit as its trace shows it: one list per query span, one value per token of the span."""

    credit: list[list[float | None]]
    divergence: list[list[float | None]]


def by_span(rollout: Rollout, inputs: TeacherInputs, values: Values) -> SpanCredit:
    """Put the values of :meth:`CreditRecord.of` where the rollout's query tokens stand."""
    positions = [position for row in inputs.rows for position in row.student_positions]
    # The logits at a position are those of the token after it.
    first = len(rollout.prompt.token_ids) - 1
    found = {position - first: value for position, value in zip(positions, values, strict=True)}

    def spread(which: int) -> list[list[float | None]]:
        return [
            [round(found[token][which], 6) if token in found else None for token in range(start, end)]
            for start, end in rollout.spans
        ]

    return SpanCredit(spread(0), spread(1))
