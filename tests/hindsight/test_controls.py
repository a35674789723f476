"""Blocks that show what is not true, or of another question: the controls of the method, in the teacher's rows."""

from __future__ import annotations

import re

import pytest
from support.engine import recorded_rows, settings, teacher_inputs
from support.tiny import byte_tokenizer

from sd_search_verl.errors import UserError
from sd_search_verl.hindsight.block import is_correct, shuffled_labels

TOKENIZER = byte_tokenizer()
ROWS = recorded_rows(TOKENIZER)


def test_shuffled_labels_are_those_of_other_rollouts_of_the_step() -> None:
    def labels(**hindsight: str) -> list[bool]:
        shown = {}
        for row, item in zip(
            ROWS, teacher_inputs(ROWS, settings(hindsight=hindsight), TOKENIZER), strict=True
        ):
            for block in item.blocks:
                shown[row.rollout.prompt.group] = re.findall(r"^\d+\. ((?:IN)?CORRECT)", block, re.MULTILINE)
        assert len({len(lines) for lines in shown.values()}) == 1
        return [label == "CORRECT" for lines in shown.values() for label in lines]

    true = [is_correct(row.rollout, settings().hindsight) for row in ROWS]
    assert labels() == true
    assert labels(labels="shuffled") == shuffled_labels(true, seed=1) != true


def test_rows_behind_inverted_labels_are_made_where_they_are_read() -> None:
    inverted = [
        item.rows for item in teacher_inputs(ROWS, settings(hindsight={"labels": "flipped"}), TOKENIZER)
    ]
    for changes, asked, made in [
        ({}, False, False),
        ({}, True, True),
        ({"target": "contrast"}, False, True),
        ({"gate": "labels"}, False, True),
    ]:
        found = teacher_inputs(ROWS, settings(**changes), TOKENIZER, flipped=asked)
        assert [item.flipped for item in found] == (inverted if made else [[]] * len(ROWS)), changes
        assert [item.rows for item in found] == [
            item.rows for item in teacher_inputs(ROWS, settings(), TOKENIZER)
        ]


def test_flipped_labels_invert_every_line_and_another_questions_block_is_shown() -> None:
    def blocks(**hindsight: str) -> list[list[str]]:
        return [item.blocks for item in teacher_inputs(ROWS, settings(hindsight=hindsight), TOKENIZER)]

    swapped = {"CORRECT": "INCORRECT", "INCORRECT": "CORRECT"}
    for true, flipped in zip(blocks(), blocks(labels="flipped"), strict=True):
        words = [re.sub(r"\b(IN)?CORRECT\b", lambda found: swapped[found[0]], block) for block in true]
        assert words == flipped
    groups = [row.rollout.prompt.group for row in ROWS]
    shown = dict(zip(groups, blocks(), strict=True))
    following = dict(zip(shown, [*list(shown)[1:], *list(shown)[:1]], strict=True))
    others = zip(groups, blocks(group="other_question"), strict=True)
    compared = [
        (other, shown[following[group]]) for group, other in others if other and shown[following[group]]
    ]
    assert compared
    assert all(other == theirs for other, theirs in compared)


def test_a_step_of_one_question_has_no_other_question() -> None:
    rows = [row for row in ROWS if row.rollout.prompt.group == ROWS[0].rollout.prompt.group]
    with pytest.raises(UserError, match="needs two questions"):
        teacher_inputs(rows, settings(hindsight={"group": "other_question"}), TOKENIZER)
