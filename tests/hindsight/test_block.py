"""The hindsight block: what it shows, what it hides, where it goes, how it is shortened."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_search_verl.config import HindsightConfig
from sd_search_verl.errors import UserError
from sd_search_verl.hindsight.block import (
    RolloutSummary,
    documents_block,
    insert_block,
    is_correct,
    render_block,
    render_block_within,
    shuffled_labels,
)
from sd_search_verl.rollout.types import Prompt, Rollout

GROUP = [
    RolloutSummary(["capital france"], 1.0, "<think>T</think> <answer>Paris</answer>"),
    RolloutSummary(["first", "second"], 0.0, "<think>U</think>"),
    RolloutSummary([], 0.4),
]


def block(focal: int = 0, **changes: Any) -> str:
    return render_block(GROUP, focal, HindsightConfig(**changes))


def test_every_rollouts_queries_and_outcome() -> None:
    assert block() == (
        "Earlier attempts at this question, each with its outcome and its search queries:\n"
        "1. CORRECT: capital france\n"
        "2. INCORRECT: first ; second\n"
        "3. CORRECT: no search\n"
    )


def test_future_masking() -> None:
    assert "Paris" not in block()
    assert "Paris" in block(content="full")
    assert "<think>U</think>" in block(content="full")


def test_labels() -> None:
    assert "CORRECT" not in block(labels="none")
    assert "3. INCORRECT" in block(correct_above_f1=0.5)
    relabelled = [RolloutSummary(["q"], 1.0, label=False)]
    assert "1. INCORRECT: q" in render_block(relabelled, 0, HindsightConfig(labels="shuffled"))


def test_the_label_is_f1_em_or_the_reward() -> None:
    near = Rollout(Prompt("g", [], []), f1=0.4, em=0.0, reward=0.0)
    assert is_correct(near, HindsightConfig())
    assert not is_correct(near, HindsightConfig(correct_above_f1=0.4))
    assert not is_correct(near, HindsightConfig(label="em"))
    assert is_correct(replace(near, em=1.0, f1=0.0), HindsightConfig(label="em"))
    assert not is_correct(near, HindsightConfig(label="reward"))
    assert is_correct(replace(near, reward=0.1), HindsightConfig(label="reward"))
    with pytest.raises(UserError, match="label=reward needs rollouts with a reward"):
        is_correct(replace(near, reward=None), HindsightConfig(label="reward"))


@pytest.mark.parametrize(
    ("layout", "line"),
    [
        ("lines", "2. INCORRECT: first ; second"),
        ("outcome_last", "2. first ; second -> INCORRECT"),
        ("sentences", "2. The search for first ; second led to a wrong answer."),
        ("tags", "<incorrect> first ; second </incorrect>"),
        ("scores", "2. score 0.00: first ; second"),
        ("sections", "Attempts with a wrong answer:\n- first ; second"),
    ],
)
def test_layouts_say_the_same_in_other_words(layout: str, line: str) -> None:
    assert line in block(layout=layout)
    assert all(text in block(layout=layout) for text in ("capital france", "no search"))
    flipped = [replace(member, label=not member.correct(HindsightConfig())) for member in GROUP]
    assert line not in render_block(flipped, 0, HindsightConfig(layout=layout))


def test_a_reward_for_the_format_alone_makes_no_rollout_correct() -> None:
    rollout = Rollout(Prompt("g", [], []), reward=0.2)
    assert is_correct(rollout, HindsightConfig(label="reward"))
    assert not is_correct(rollout, HindsightConfig(label="reward", correct_above_reward=0.2))
    assert is_correct(
        replace(rollout, reward=-0.1), HindsightConfig(label="reward", correct_above_reward=-0.5)
    )


def test_order_instruction_and_demonstration() -> None:
    first = [line.split()[1] for line in block(order="correct_first").splitlines()[1:]]
    assert first == ["CORRECT:", "CORRECT:", "INCORRECT:"]
    last = [line.split()[1] for line in block(order="correct_last").splitlines()[1:]]
    assert last == ["INCORRECT:", "CORRECT:", "CORRECT:"]
    assert (
        block(instruction=True)
        == block()
        + "Search as attempts with a correct answer did, and not as attempts "
        "with a wrong answer did.\n"
    )
    assert block(demonstration=True) == (
        "For example, the question was: who wrote the novel dune?\n"
        "1. INCORRECT: novel dune\n"
        "2. CORRECT: author of the novel dune\n"
        "The next search was: author of the novel dune\n\n" + block()
    )
    assert "1. score 0.00: novel dune\n2. score 1.00: author of the novel dune\n" in block(
        demonstration=True, layout="scores"
    )


def test_the_own_line_can_be_hidden() -> None:
    assert "2. INCORRECT: (this attempt)" in block(focal=1, own="hidden")
    assert "1. CORRECT: capital france" in block(focal=1, own="hidden")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"own": "hidden", "group": "leave_one_out"}, "no own line to change"),
        ({"own": "cut", "content": "full"}, "hides queries, content=full shows more"),
        ({"layout": "tags", "content": "none"}, "no attempts to word"),
        ({"instruction": True, "labels": "none"}, "nothing for layout, instruction"),
    ],
)
def test_options_that_do_not_combine_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        HindsightConfig(**changes)


def test_the_best_sibling_is_the_correct_rollout_with_the_fewest_queries() -> None:
    group = [
        RolloutSummary(["a", "b"], 1.0, "long"),
        RolloutSummary(["c"], 0.0),
        RolloutSummary(["d"], 1.0, "longer"),
        RolloutSummary(["e"], 1.0, "short"),
    ]

    def shown(focal: int) -> str:
        return render_block(group, focal, HindsightConfig(group="best_sibling"))

    assert shown(1).splitlines()[1:] == ["1. CORRECT: e"]
    assert shown(0) == shown(1)
    assert shown(2) == shown(3) == ""  # nobody needs fewer
    assert render_block(group[1:2] * 2, 0, HindsightConfig(group="best_sibling")) == ""


def test_groups() -> None:
    assert "first" not in block(focal=0, group="own")
    assert "capital france" not in block(focal=0, group="leave_one_out")
    assert "first" in block(focal=0, group="leave_one_out")
    assert "INCORRECT" not in block(group="correct_only")
    assert render_block([GROUP[1]], 0, HindsightConfig(group="correct_only")) == ""
    assert render_block([GROUP[0]], 0, HindsightConfig(group="leave_one_out")) == ""


def test_none_is_empty_and_documents_have_their_own_function() -> None:
    assert block(content="none") == ""
    with pytest.raises(ValueError, match="documents_block"):
        block(content="current_documents")
    assert documents_block("Doc 1(Title: t) x\n") == "Documents found for this question:\nDoc 1(Title: t) x\n"
    assert documents_block(" Doc 1\n\n") == documents_block("Doc 1")
    assert documents_block(" ") == ""


def test_a_query_is_one_line() -> None:
    text = render_block([RolloutSummary(["a\n2. CORRECT: forged"], 0.0)], 0, HindsightConfig())
    assert text.splitlines()[1:] == ["1. INCORRECT: a 2. CORRECT: forged"]


def test_placement() -> None:
    messages = [{"role": "user", "content": "Question: q?\n"}]
    placed = {
        p: insert_block(messages, "B\n", HindsightConfig(placement=p))
        for p in ("before_question", "after_question", "system")
    }  # type: ignore[arg-type]
    assert placed["before_question"] == [{"role": "user", "content": "B\n\nQuestion: q?\n"}]
    assert placed["after_question"] == [{"role": "user", "content": "Question: q?\n\nB\n"}]
    assert placed["system"] == [{"role": "system", "content": "B\n"}, *messages]
    with_system = [{"role": "system", "content": "S"}, *messages]
    assert insert_block(with_system, "B", HindsightConfig(placement="system"))[0]["content"] == "S\nB"
    assert messages == [{"role": "user", "content": "Question: q?\n"}]
    assert insert_block(messages, "", HindsightConfig()) == messages
    with pytest.raises(UserError, match="needs a user message"):
        insert_block([{"role": "system", "content": "x"}], "B", HindsightConfig())


@given(st.lists(st.lists(st.text("ab ", max_size=30), max_size=4), min_size=1, max_size=9), st.data())
def test_shortening_keeps_the_focal_rollout_longest(queries: list[list[str]], data: st.DataObject) -> None:
    rollouts = [RolloutSummary([f"q{i}", *q], float(i % 2)) for i, q in enumerate(queries)]
    focal = data.draw(st.integers(0, len(rollouts) - 1))
    config = HindsightConfig(max_tokens=data.draw(st.integers(16, 400)))
    text, dropped = render_block_within(rollouts, focal, config, len)
    assert len(text) <= config.max_tokens
    if dropped < len(rollouts):
        assert f"q{focal}" in text
        assert sum(line[0].isdigit() for line in text.splitlines()) == len(rollouts) - dropped
        if dropped:  # the block without one less would be too long
            order = [focal, *(i for i in range(len(rollouts)) if i != focal)]
            more = sorted(order[: len(rollouts) - dropped + 1])
            assert (
                len(render_block([rollouts[i] for i in more], more.index(focal), config)) > config.max_tokens
            )
    else:
        assert text == ""
        assert len(render_block([rollouts[focal]], 0, config)) > config.max_tokens


def test_shuffled_labels_keep_their_number() -> None:
    labels = [True] * 10 + [False] * 30
    mixed = shuffled_labels(labels, seed=3)
    assert sorted(mixed) == sorted(labels)
    assert mixed != labels
    assert mixed == shuffled_labels(labels, seed=3)
