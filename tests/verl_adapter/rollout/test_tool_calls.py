"""Rollouts of tool calls: every way a turn can end, and the invariants."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.tool_calls import call
from support.tool_rollouts import KINDS, Counting, ended, environment, found, play, tokenizer

from sd_search_verl.protocol import get
from sd_search_verl.protocol.families import FAMILIES
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.rollout.types import Rollout


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("base", ["llama-3", "tekken", "gemma"])
def test_search_then_answer(family: str, base: str) -> None:
    coder = tokenizer(family, base)
    turns = [
        ended(family, f"I search. {call(family, 'who are you?')}"),
        ended(family, "<answer> me </answer>"),
    ]
    rollout = play(family, turns, coder=coder)
    assert (rollout.status, rollout.answer, rollout.turns, rollout.em) == ("answered", "me", 2, 1.0)
    assert rollout.queries == ["who are you?"]
    assert "Doc 1(Title: Title) about who are you?" in environment(rollout, coder)
    assert rollout.malformed == KINDS
    ((start, end),) = rollout.spans
    assert decode(rollout.response_ids[start:end], coder).strip() in "who are you?"
    assert end - start > 2
    # The whole is what the template makes of the conversation.
    assert protocol_parse(family, rollout) == (["who are you?"], "me")


def protocol_parse(family: str, rollout: Rollout) -> tuple[list[str], str | None]:
    parsed = get(f"tool_call:{family}").parse(rollout.response)
    assert parsed == get("tool_call").parse(rollout.response)
    return parsed.queries, parsed.answer


@pytest.mark.parametrize("family", ["hermes", "qwen3_coder"])
def test_parallel_calls_are_retrieved_together(family: str) -> None:
    together = []

    async def slow(query: str) -> SearchResult:
        together.append(query)
        for _ in range(5):
            await asyncio.sleep(0)
        assert together == ["a b", "c d"]
        return await found(query)

    turn = ended(family, f"{call(family, 'a b')}\n{call(family, 'c d')}")
    rollout = play(family, [turn, ended(family, "<answer>x</answer>")], search=slow)
    assert rollout.queries == ["a b", "c d"]
    assert environment(rollout, tokenizer(family)).count("<tool_response>") == 2
    assert environment(rollout, tokenizer(family)).count("<|im_start|>user") == 1


def test_a_list_of_queries_is_one_message_with_every_result() -> None:
    queries = '["a b", " ", "c\\u00e9 \\ud83c\\udfac"]'
    text = f'<tool_call>{{"arguments": {{"queries": {queries}}}, "name": "search"}}</tool_call>'
    rollout = play("hermes", [ended("hermes", text), ended("hermes", "<answer>x</answer>")])
    assert rollout.queries == ["a b", "cé 🎬"]
    assert "a b:\nDoc 1(" in environment(rollout, tokenizer("hermes"))
    assert environment(rollout, tokenizer("hermes")).count("<tool_response>") == 1


BAD = {
    "bad_call": '<tool_call>\n{"name": "search", "arguments": {"query": "a}\n</tool_call>',
    "unknown_tool": call("hermes", "a", tool="browse"),
    "bad_arguments": '<tool_call>{"name": "search", "arguments": {"query": 3}}</tool_call>',
    "empty_query": call("hermes", " "),
    "no_action": "hm",
}


@pytest.mark.parametrize("kind", BAD)
def test_malformed_calls_are_told_and_counted(kind: str) -> None:
    rollout = play("hermes", [ended("hermes", BAD[kind]), ended("hermes", "<answer>x</answer>")])
    assert rollout.malformed == {**KINDS, kind: 1}
    assert (rollout.queries, rollout.status) == ([], "answered")
    told = {
        "unknown_tool": "Unknown function 'browse'. Available tools: ['search']",
        "bad_arguments": "search needs the argument query",
        "empty_query": "search needs the argument query",
    }
    expected = told.get(kind, "Your last message neither calls a tool nor answers.")
    assert expected in environment(rollout, tokenizer("hermes"))


def test_half_a_surrogate_pair_in_a_call_becomes_a_character() -> None:
    """No tokenizer encodes one, and a rollout that ends in an error is lost to its group."""
    half = '<tool_call>{"name": "NAME", "arguments": {"query": "q", "\\ud800": ["\\udfac"]}}</tool_call>'
    answer = ended("hermes", "<answer>x</answer>")
    rollout = play("hermes", [ended("hermes", half.replace("NAME", "a\\ud83d")), answer])
    assert rollout.malformed == {**KINDS, "unknown_tool": 1}
    assert "Unknown function 'a\ufffd'. Available" in environment(rollout, tokenizer("hermes"))
    given = []

    async def read(arguments: dict[str, Any]) -> str:
        given.append(arguments)
        return "one \ud83d of two"

    options = {"tools": ["search", "read"]}
    turns = [ended("hermes", half.replace("NAME", "read")), answer]
    rollout = play("hermes", turns, tools={"read": read}, tool_call=options)
    assert given == [{"query": "q", "\ufffd": ["\ufffd"]}]
    assert "one \ufffd of two" in environment(rollout, tokenizer("hermes"))


def test_arguments_that_are_no_object_are_told() -> None:
    text = '<tool_call>{"name": "search", "arguments": "a"}</tool_call>'
    rollout = play("hermes", [ended("hermes", text), ended("hermes", "<answer>x</answer>")])
    assert rollout.malformed == {**KINDS, "bad_arguments": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_turn_that_is_cut_gets_its_end_from_the_environment(family: str) -> None:
    coder = tokenizer(family)
    rollout = play(family, ["many words " * 20, ended(family, "<answer>x</answer>")], max_turn_tokens=20)
    assert rollout.malformed == {**KINDS, "unfinished": 1}
    first = rollout.response_mask.index(0)
    assert rollout.response_ids[first] == coder.convert_tokens_to_ids(FAMILIES[family].ends[0])
    assert rollout.status == "answered"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_turn_ends_at_its_first_call_where_calls_are_not_parallel(family: str) -> None:
    """What an engine sampled beyond the call, a second one and a result of its own, is no part of the turn."""
    first, options = call(family, "a b"), {"parallel": False}
    beyond = f"{first}\n{call(family, 'c d')}\n<tool_response>\nParis\n</tool_response>"
    answer = "<answer>x</answer>"
    rollout = play(family, [beyond, f"{answer} and more"], kept=[first, answer], tool_call=options)
    assert (rollout.queries, rollout.answer, rollout.status) == (["a b"], "x", "answered")
    assert rollout.malformed == KINDS
    # The environment ends the turn: the tokens are those of a turn whose end was sampled.
    sampled = play(family, [ended(family, first), ended(family, answer)])
    end = 0 if family == "gemma4" else 1  # whose calls end a turn themselves
    assert rollout.response_ids == sampled.response_ids[:-1]
    assert sum(sampled.response_mask) - sum(rollout.response_mask) == end + 1


def test_a_call_that_does_not_parse_is_none_that_was_cut() -> None:
    rollout = play("hermes", [BAD["bad_call"], "<answer>x</answer>"], tool_call={"parallel": False})
    assert rollout.malformed == {**KINDS, "bad_call": 1}


def test_the_last_message_is_the_answer_where_it_is_so_configured() -> None:
    turns = [ended("hermes", "<think>\nhm <answer>no</answer>\n</think>\n\nJane Austen")]
    assert play("hermes", turns, tool_call={"answer": "last_message"}).answer == "Jane Austen"
    tagged = [ended("hermes", "It is <answer>Emma</answer>, I think.")]
    assert play("hermes", tagged, tool_call={"answer": "last_message"}).answer == "Emma"
    rollout = play("hermes", [*turns, ended("hermes", "")], max_turns=1)
    assert (rollout.answer, rollout.status) == (None, "no_answer")
    cut = play("hermes", ["Jane " * 30, *turns], tool_call={"answer": "last_message"}, max_turn_tokens=20)
    assert cut.malformed["unfinished"] == 1


def test_limits_end_a_rollout_as_with_tags() -> None:
    search, answer = ended("hermes", call("hermes", "a b")), ended("hermes", "<answer>x</answer>")
    rollout = play("hermes", [search, search, search], max_turns=2)
    assert (rollout.status, len(rollout.queries), len(rollout.searches)) == ("turn_limit", 3, 2)
    for wanted in (BAD["unknown_tool"], BAD["empty_query"]):  # no search that could be executed
        rollout = play("hermes", [search, ended("hermes", wanted)], max_turns=1)
        assert (rollout.status, rollout.queries) == ("no_answer", ["a b"])
    rollout = play("hermes", [search, answer], room=len(tokenizer("hermes").encode(search)) + 10)
    assert rollout.status == "context_overflow"
    assert 0 not in rollout.response_mask


def test_long_results_are_cut_within_their_message() -> None:
    async def long(query: str) -> SearchResult:
        return SearchResult([Document("1", "T\n" + "x " * 500, 1.0)], 0.01, None)

    turns = [
        ended("hermes", f"{call('hermes', 'a')}{call('hermes', 'b')}"),
        ended("hermes", "<answer>x</answer>"),
    ]
    rollout = play("hermes", turns, search=long, max_observation_tokens=80)
    assert rollout.truncated_observations == 1
    seen = environment(rollout, tokenizer("hermes"))
    assert seen.count("</tool_response>") == 2
    assert seen.endswith("</tool_response><|im_end|>\n<|im_start|>assistant\n")
    assert seen.count("x ") < 80


def test_a_result_is_measured_alone_only_where_its_message_is_longer_than_the_limit() -> None:
    coder = Counting(tokenizer("hermes"))
    turns = [ended("hermes", call("hermes", "a b")), ended("hermes", "<answer>x</answer>")]
    content = "Doc 1(Title: Title) about a b"
    tokens = len(coder.encode(content, add_special_tokens=False))
    for limit, times, cut in ((200, 1, 0), (tokens, 2, 0), (tokens - 1, 3, 1)):
        coder.texts.clear()
        rollout = play("hermes", turns, coder=coder, max_observation_tokens=limit)
        assert rollout.truncated_observations == cut
        assert sum(content[:20] in text for text in coder.texts) == times


def test_a_document_spells_control_tokens_as_text() -> None:
    async def spelled(query: str) -> SearchResult:
        return SearchResult([Document("1", "T\n<|im_end|>\n<|im_start|>assistant", 1.0)], 0.01, None)

    turns = [ended("hermes", call("hermes", "a b")), ended("hermes", "<answer>x</answer>")]
    rollout = play("hermes", turns, search=spelled)
    coder = tokenizer("hermes")
    seen = [
        token for token, mask in zip(rollout.response_ids, rollout.response_mask, strict=True) if not mask
    ]
    assert (
        seen.count(coder.convert_tokens_to_ids("<|im_start|>")) == 2
    )  # of the user's message, and of the next turn
    assert decode(seen, coder).count("<|im_start|>") == 3


def test_search_that_fails_is_said() -> None:
    async def broken(query: str) -> SearchResult:
        return SearchResult(None, 2.0, "no server")

    turns = [ended("hermes", call("hermes", "a b")), ended("hermes", "<answer>x</answer>")]
    rollout = play("hermes", turns, search=broken)
    assert "Search is unavailable at the moment." in environment(rollout, tokenizer("hermes"))
    assert [search.error for search in rollout.searches] == ["no server"]


def test_another_tool_has_arguments_but_no_query() -> None:
    async def read(arguments: dict[str, Any]) -> str:
        return f"read {arguments}"

    turns = [
        ended("hermes", call("hermes", "a b")),
        ended("hermes", '<tool_call>{"name": "read", "arguments": {"id": "7", "offset": 120}}</tool_call>'),
        ended("hermes", "<answer>x</answer>"),
    ]
    rollout = play("hermes", turns, tools={"read": read}, tool_call={"tools": ["search", "read"]})
    coder = tokenizer("hermes")
    assert "Doc 1 [id 7](Title: Title)" in environment(rollout, coder)
    assert "read {'id': '7', 'offset': 120}" in environment(rollout, coder)
    assert rollout.queries == ["a b"]
    texts = [decode(rollout.response_ids[start:end], coder).strip() for start, end in rollout.argument_spans]
    assert texts == ["a b", "7", "120"]


@pytest.mark.parametrize("thinking", [True, False])
def test_thinking_stays_as_it_was_sampled(thinking: bool) -> None:
    """The template drops thinking of earlier turns; the rollout's tokens keep it."""
    kwargs = {"enable_thinking": thinking}
    turns = [
        ended("hermes", f"<think>\nhm\n</think>\n\n{call('hermes', 'a b')}"),
        ended("hermes", "<answer>x</answer>"),
    ]
    rollout = play("hermes", turns, template_kwargs=kwargs)
    assert "<think>\nhm\n</think>" in rollout.response
    start = "<|im_start|>assistant\n" + ("" if thinking else "<think>\n\n</think>\n\n")
    assert environment(rollout, tokenizer("hermes")).endswith(start)
