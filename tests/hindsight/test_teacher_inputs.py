"""Teacher rows: the student's own tokens, aligned, cut after the last scored one."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from support.chat_templates import chat_tokenizer
from support.engine import recorded_rows, settings, teacher_inputs
from support.tiny import byte_tokenizer
from support.tool_calls import written_turn

from sd_search_verl.hindsight.teacher_inputs import (
    build_teacher_inputs,
    spans_to_first_difference,
    trajectory_weight,
)
from sd_search_verl.protocol import get
from sd_search_verl.protocol.control_tokens import encode_text
from sd_search_verl.protocol.families import FAMILIES
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.rollout.types import Prompt, Rollout

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
        {"hindsight": {"own": "cut"}},
        {"hindsight": {"own": "hidden", "layout": "sections", "instruction": True}},
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


def test_documents_are_cut_to_the_longest_block_and_counted() -> None:
    config = settings(hindsight={"content": "current_documents", "max_tokens": 40})
    found = teacher_inputs(ROWS, config, TOKENIZER)
    assert sum(item.num_dropped for item in found) > 5
    assert all(len(TOKENIZER.encode(block)) <= 40 for item in found for block in item.blocks)


def test_without_a_block_the_prompts_are_the_same_tokens() -> None:
    for row, item in zip(
        ROWS, teacher_inputs(ROWS, settings(hindsight={"content": "none"}), TOKENIZER), strict=True
    ):
        for teacher in item.rows:
            assert teacher.teacher_positions == teacher.student_positions
            assert (row.rollout.prompt.token_ids + row.rollout.response_ids)[
                : len(teacher.input_ids)
            ] == teacher.input_ids


def test_a_cut_own_line_never_holds_the_scored_token() -> None:
    config = settings(hindsight={"own": "cut", "group": "own"})
    for row, item in zip(ROWS, teacher_inputs(ROWS, config, TOKENIZER), strict=True):
        rollout = row.rollout
        scored = [(start, j) for start, end in rollout.spans for j in range(start, end)]
        assert len(item.blocks) == len(scored)
        for block, (start, token) in zip(item.blocks, scored, strict=True):
            written = TOKENIZER.decode(rollout.response_ids[start:token])
            assert "".join(block.split()).endswith("".join(f"{written}...".split())), (block, written)


def test_scoring_ends_at_the_first_token_on_which_the_groups_queries_differ() -> None:
    def rollout(query: str) -> Rollout:
        ids = TOKENIZER.encode(query)
        return Rollout(Prompt("g", [], []), ids, [1] * len(ids), queries=[query], spans=[(0, len(ids))])

    group = [rollout("dune author"), rollout("dune writer"), rollout("dune author")]
    assert [spans_to_first_difference(one, group) for one in group] == [[(0, 6)]] * 3
    assert spans_to_first_difference(group[0], [group[0], group[2]]) == [(0, 11)]
    assert spans_to_first_difference(rollout("dune"), [rollout("dune"), rollout("dune author")]) == [(0, 4)]


def test_only_tokens_before_the_first_difference_are_scored_where_it_is_so_configured() -> None:
    scored = []
    for row, item in zip(
        ROWS, teacher_inputs(ROWS, settings(positions="first_difference"), TOKENIZER), strict=True
    ):
        group = [other.rollout for other in ROWS if other.rollout.prompt.group == row.rollout.prompt.group]
        spans = spans_to_first_difference(row.rollout, group)
        first = len(row.rollout.prompt.token_ids) - 1
        found = [position - first for teacher in item.rows for position in teacher.student_positions]
        assert found == [j for start, end in spans for j in range(start, end)]
        scored.append(spans != row.rollout.spans)
    assert any(scored)


def test_a_long_block_is_shortened_and_counted() -> None:
    config = settings(hindsight={"max_tokens": 140})
    inputs = teacher_inputs(ROWS, config, TOKENIZER)
    assert any(0 < item.num_dropped < 4 for item in inputs)
    assert all(len(block) <= 140 for item in inputs for block in item.blocks)


def test_trajectory_weight() -> None:
    assert trajectory_weight([True, False], "uniform") == 1.0
    assert trajectory_weight([True, True], "group_variance") == 0.0
    assert math.isclose(trajectory_weight([True, False, False, False], "group_variance"), math.sqrt(3) / 4)


@pytest.mark.parametrize("positions", ["query", "response"])
def test_tokens_rejected_by_verls_rollout_correction_are_not_scored(positions: str) -> None:
    """verl sets their response mask to 0: of whole rollouts, or of single tokens."""
    changed = []
    for place, row in enumerate(ROWS):
        mask = list(row.rollout.response_mask)
        first = row.rollout.spans[0][0] if row.rollout.spans else 0
        kept = [0] * len(mask) if place % 2 else [*mask[:first], 0, *mask[first + 1 :]]
        changed.append(replace(row, rollout=replace(row.rollout, response_mask=kept)))
    inputs = teacher_inputs(changed, settings(positions=positions), TOKENIZER)
    for place, (row, item) in enumerate(zip(changed, inputs, strict=True)):
        rollout = row.rollout
        scored = [
            position + 1 - len(rollout.prompt.token_ids)
            for teacher in item.rows
            for position in teacher.student_positions
        ]
        assert all(rollout.response_mask[token] for token in scored)
        assert not (place % 2 and item.rows)
    assert any(item.rows for item in inputs)


@pytest.mark.parametrize("placement", ["before_question", "after_question", "system"])
@pytest.mark.parametrize("limit", [5, 20, 60, 90])
def test_the_teacher_reads_the_cut_prompt_of_the_student(
    qwen_tokenizer: Any, placement: str, limit: int
) -> None:
    """Behind its block, or with the block in it: the same tokens, cut at the same place."""
    system = {"role": "system", "content": "Be brief, and cite what you read. " * 4}
    question = {"role": "user", "content": f"Question: {'a very ' * 30}long question?\n"}
    prompt = Prompt.encode("g", [system, question], [], qwen_tokenizer, {}, limit)
    assert prompt.num_cut > 0
    response = qwen_tokenizer.encode("<search> dune </search>", add_special_tokens=False)
    rollout = Rollout(prompt, response, [1] * len(response), queries=["dune"], spans=[(2, 4)])
    (item,) = build_teacher_inputs(
        [rollout],
        settings(hindsight={"placement": placement}),
        qwen_tokenizer,
        lambda messages: encode_messages(messages, qwen_tokenizer),
        seed=0,
    )
    (row,) = item.rows
    read = qwen_tokenizer.decode(row.input_ids[: len(row.input_ids) - 4])
    block = item.blocks[0].strip()
    assert block in read
    before, _, after = read.partition(block)
    # White space beside the block may differ by the line ends that set it off.
    assert "".join(f"{before}{after}".split()) == "".join(qwen_tokenizer.decode(prompt.token_ids).split())


@pytest.mark.parametrize("placement", ["before_question", "after_question", "system"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("system", [True, False])
def test_the_teacher_of_tool_calls_reads_the_student_behind_its_block(
    qwen_tokenizer: Any, family: str, placement: str, system: bool
) -> None:
    """Tools included: without the block the teacher's row is the student's, token for token."""
    coder = chat_tokenizer(qwen_tokenizer, family)
    kwargs = get(f"tool_call:{family}").template_kwargs
    messages = [{"role": "user", "content": "Question: who wrote Emma?\n"}]
    messages = [{"role": "system", "content": "Be brief."}, *messages] if system else messages
    prompt = Prompt.encode("g", messages, [], coder, kwargs, 10_000)
    assert "Search for passages" in coder.decode(prompt.token_ids)
    draw = Random(family)
    ids = coder.encode(written_turn(family, draw).text, add_special_tokens=False)
    spans = query_spans(ids, coder, get(f"tool_call:{family}"), [1] * len(ids))
    rollout = Rollout(prompt, ids, [1] * len(ids), queries=["q"] * len(spans), spans=spans)
    (item,) = build_teacher_inputs(
        [rollout],
        settings(hindsight={"placement": placement}),
        coder,
        lambda shown: encode_messages(shown, coder, kwargs),
        seed=0,
    )
    (row,) = item.rows
    student = [*prompt.token_ids, *ids[: spans[-1][1]]]
    block = encode_text(item.blocks[0].strip(), coder)
    inserted = len(row.input_ids) - len(student)
    same = next(i for i, (a, b) in enumerate(zip(row.input_ids, student, strict=False)) if a != b)
    # White space that sets the block off may merge with its neighbour.
    assert row.input_ids[same + inserted + 2 :] == student[same + 2 :]
    taken_out = coder.decode(row.input_ids).replace(coder.decode(block), "")
    assert "".join(taken_out.split()) == "".join(coder.decode(student).split())
    assert [row.input_ids[p + 1] for p in row.teacher_positions] == [
        student[p + 1] for p in row.student_positions
    ]


def test_other_arguments_are_scored_where_it_is_so_configured() -> None:
    rollout = Rollout(
        Prompt("g", [{"role": "user", "content": "Question: q?\n"}], [1, 2]),
        [3, 4, 5, 6],
        [1, 1, 1, 1],
        queries=["q"],
        spans=[(1, 2)],
        argument_spans=[(1, 2), (3, 4)],
    )
    for positions, scored in (("query", [2]), ("tool_arguments", [2, 4]), ("response", [1, 2, 3, 4])):
        (item,) = build_teacher_inputs(
            [rollout], settings(positions=positions), TOKENIZER, lambda messages: [1, 2], seed=0
        )
        assert [p for row in item.rows for p in row.student_positions] == scored
