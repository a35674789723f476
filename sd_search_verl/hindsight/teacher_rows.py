"""The teacher's rows: the student's own tokens behind the hindsight block, cut after the last scored token.

Only the prefix differs, so positions are aligned from the start of the response: the logits that predict response
token ``j`` stand at index ``len(prompt) + j - 1``, in the student's row as in the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sd_search_verl.protocol.spans import Span


@dataclass(frozen=True)
class TeacherRow:
    """One sequence for the teacher, and where its logits meet the student's.

    Attributes:
        input_ids: teacher prompt, then the response up to and including the last scored token.
        teacher_positions: index in ``input_ids`` of the logits that predict each scored token.
        student_positions: index in the student's ``prompt + response`` of the logits that predict the same token.
    """

    input_ids: list[int]
    teacher_positions: list[int]
    student_positions: list[int]


def teacher_row(
    teacher_prompt_ids: Sequence[int],
    student_prompt_length: int,
    response_ids: Sequence[int],
    tokens: Sequence[int],
) -> TeacherRow:
    """The row that scores the response tokens with indices ``tokens`` (ascending, not empty)."""
    end = tokens[-1] + 1
    prompt_length = len(teacher_prompt_ids)
    return TeacherRow(
        input_ids=[*teacher_prompt_ids, *response_ids[:end]],
        teacher_positions=[prompt_length + j - 1 for j in tokens],
        student_positions=[student_prompt_length + j - 1 for j in tokens],
    )


def scored_tokens(spans: Sequence[Span], response_mask: Sequence[int], positions: str) -> list[int]:
    """Response token indices that are scored: the query tokens, or with ``response`` all of the policy's tokens."""
    if positions == "response":
        return [j for j, wrote in enumerate(response_mask) if wrote]
    return [j for start, end in spans for j in range(start, end)]
