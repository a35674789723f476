"""Parsing of whole responses, as text."""

from __future__ import annotations

import pytest

from sd_search_verl.errors import UserError
from sd_search_verl.protocol import get

R1 = get("search_r1")


@pytest.mark.parametrize(
    ("response", "queries", "answer"),
    [
        ("<search> a b </search>", ["a b"], None),
        (
            "<think> x </think><search>a</search>\n\n<information>d</information>\n\n<answer> y </answer>",
            ["a"],
            "y",
        ),
        (
            "<search>a</search><information><search>no</search> <answer>no</answer></information><answer>y</answer>",
            ["a"],
            "y",
        ),
        ("<search>unclosed", [], None),
        ("closed only </search> <search>a</search>", ["a"], None),
        ("<search>   </search>", [], None),
        ("<search>a <search> b</search>", ["a <search> b"], None),
        ("<search>a<answer>b</answer>", [], "b"),
        ("<answer></answer>", [], ""),
        ("<answer>one</answer><answer>two</answer>", [], "two"),
        (f"<search></search>{R1.invalid_action}<search>a</search>", ["a"], None),
        (
            "I write <information> myself <search>a</search>\n\n<information>d</information> <answer>y</answer>",
            ["a"],
            "y",
        ),
        ("", [], None),
    ],
)
def test_parse(response: str, queries: list[str], answer: str | None) -> None:
    parsed = R1.parse(response)
    assert parsed.queries == queries
    assert parsed.answer == answer


def test_query_and_answer_of_a_turn_are_stripped_on_both_sides() -> None:
    assert R1.query("<think>a</think><search>\n who wrote it \n</search>") == "who wrote it"
    assert R1.answer("<answer>\t Emma \n</answer>") == "Emma"
    assert R1.query("<search> \n </search>") is None
    assert R1.query("<search> never closed") is None
    assert R1.answer("<search> q </search>") is None


def test_prompt_ends_with_one_question_mark() -> None:
    for question in ("who was it", "who was it?", " who was it? "):
        (message,) = R1.prompt(question)
        assert message["role"] == "user"
        assert message["content"].endswith("Question: who was it?\n")


def test_unknown_protocol_names_the_choices() -> None:
    with pytest.raises(UserError, match="autorefine, search_r1"):
        get("search-r1")
