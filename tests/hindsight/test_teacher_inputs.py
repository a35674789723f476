"""Teacher rows: the student's own tokens, aligned, cut after the last scored one."""

from __future__ import annotations

import math

import pytest
from support.engine import recorded_rows, settings, teacher_inputs
from support.tiny import byte_tokenizer

from sd_search_verl.hindsight.teacher_inputs import trajectory_weight

TOKENIZER = byte_tokenizer()
ROWS = recorded_rows(TOKENIZER)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "response"},
        {"hindsight": {"content": "none"}},
        {"hindsight": {"content": "full"}},
        {"hindsight": {"content": "current_documents"}},
        {"hindsight": {"placement": "system", "group": "own"}},
    ],
    ids=str,
)
def test_rows_are_aligned(changes: dict) -> None:
    config = settings(**changes)
    for row, item in zip(ROWS, teacher_inputs(ROWS, config, TOKENIZER), strict=True):
        rollout = row.rollout
        student = rollout.prompt.token_ids + rollout.response_ids
        scored = []
        for teacher in item.rows:
            assert len(teacher.teacher_positions) == len(teacher.student_positions)
            assert teacher.teacher_positions == sorted(teacher.teacher_positions)
            # Cut after the last scored token, whose logits stand one before it.
            assert len(teacher.input_ids) == teacher.teacher_positions[-1] + 2
            offset = len(teacher.input_ids) - (teacher.student_positions[-1] + 2)
            assert (
                teacher.input_ids[offset + len(rollout.prompt.token_ids) :]
                == rollout.response_ids[: teacher.student_positions[-1] + 2 - len(rollout.prompt.token_ids)]
            )
            for at_teacher, at_student in zip(
                teacher.teacher_positions, teacher.student_positions, strict=True
            ):
                assert teacher.input_ids[at_teacher + 1] == student[at_student + 1]
                scored.append(at_student + 1 - len(rollout.prompt.token_ids))
        if config.positions == "response":
            assert scored == [j for j, wrote in enumerate(rollout.response_mask) if wrote]
        else:
            assert scored == [j for start, end in rollout.spans for j in range(start, end)]
            assert (not item.rows) == (not rollout.queries)


def test_each_query_sees_its_own_documents() -> None:
    config = settings(hindsight={"content": "current_documents"})
    seen = 0
    for row, item in zip(ROWS, teacher_inputs(ROWS, config, TOKENIZER), strict=True):
        assert len(item.rows) == len(row.rollout.queries)
        for search, teacher in zip(row.rollout.searches, item.rows, strict=True):
            assert TOKENIZER.decode(teacher.input_ids).startswith(
                f"Documents found for this question:\n{search.documents}\n"
            )
            seen += 1
    assert seen > 5


def test_without_a_block_the_prompts_are_the_same_tokens() -> None:
    for row, item in zip(
        ROWS, teacher_inputs(ROWS, settings(hindsight={"content": "none"}), TOKENIZER), strict=True
    ):
        for teacher in item.rows:
            assert teacher.teacher_positions == teacher.student_positions
            assert (row.rollout.prompt.token_ids + row.rollout.response_ids)[
                : len(teacher.input_ids)
            ] == teacher.input_ids


def test_a_long_block_is_shortened_and_counted() -> None:
    config = settings(hindsight={"max_tokens": 140})
    inputs = teacher_inputs(ROWS, config, TOKENIZER)
    assert any(0 < item.num_dropped < 4 for item in inputs)
    assert all(len(block) <= 140 for item in inputs for block in item.blocks)


def test_trajectory_weight() -> None:
    assert trajectory_weight([True, False], "uniform") == 1.0
    assert trajectory_weight([True, True], "group_variance") == 0.0
    assert math.isclose(trajectory_weight([True, False, False, False], "group_variance"), math.sqrt(3) / 4)
