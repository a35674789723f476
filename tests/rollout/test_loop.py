"""The rollout coroutine with a scripted policy: every way a turn or a rollout can end, and the invariants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import byte_tokenizer

from sd_search_verl.config import SearchConfig
from sd_search_verl.protocol import get
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.protocol.token_bytes import byte_table
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.rollout.loop import Generation, run_rollout
from sd_search_verl.rollout.observation import enough_text
from sd_search_verl.rollout.tag_dialogue import TagDialogue
from sd_search_verl.rollout.types import Prompt, Rollout

TOKENIZER = byte_tokenizer([(">", "Ċ"), ("?", "<"), ("?<", "/")])
R1 = get("search_r1")
PROMPT = TOKENIZER.encode("Question: q?\n", add_special_tokens=False)


def tokens(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


async def found(query: str) -> SearchResult:
    return SearchResult([Document("1", f"Title\nabout {query}", 1.0)], 0.01, None)


async def broken(query: str) -> SearchResult:
    return SearchResult(None, 2.0, "no server")


async def nothing(query: str) -> SearchResult:
    return SearchResult([], 0.01, None)


def play(
    turns: list[str],
    search: Callable[[str], Any] = found,
    room: int = 4000,
    log_probs: bool = True,
    **limits: Any,
) -> tuple[Rollout, list[list[int]]]:
    """Run an rollout whose policy says ``turns``; also returns the contexts the policy was given."""
    script = iter(turns)
    contexts: list[list[int]] = []

    async def generate(context: list[int], max_tokens: int) -> Generation:
        contexts.append(list(context))
        ids = tokens(next(script))[:max_tokens]
        return Generation(ids, [-0.5] * len(ids) if log_probs else None)

    config = SearchConfig(**limits)
    rollout = asyncio.run(run_rollout(Prompt("q", [], PROMPT), generate, search, TOKENIZER, R1, config, room))
    return rollout, contexts


def check(rollout: Rollout, contexts: list[list[int]], room: int = 4000) -> None:
    """What must hold of every rollout."""
    assert len(rollout.response_ids) == len(rollout.response_mask) <= room
    assert rollout.log_probs is None or len(rollout.log_probs) == len(rollout.response_ids)
    assert len(rollout.queries) == len(rollout.spans)
    assert [s.query for s in rollout.searches] == rollout.queries[: len(rollout.searches)]
    whole = PROMPT + rollout.response_ids
    for context in contexts:
        assert whole[: len(context)] == context  # token in, token out
    spans = [span for span in rollout.spans if span[0] < span[1]]
    assert spans == query_spans(rollout.response_ids, TOKENIZER, R1, rollout.response_mask)
    for (start, end), query in zip(rollout.spans, rollout.queries, strict=True):
        assert TOKENIZER.decode(rollout.response_ids[start:end]).strip() in query
        assert all(rollout.response_mask[start:end])


def text(rollout: Rollout, wrote: int) -> str:
    return TOKENIZER.decode(
        [t for t, m in zip(rollout.response_ids, rollout.response_mask, strict=True) if m == wrote]
    )


def test_search_then_answer() -> None:
    rollout, contexts = play(["<think> t </think> <search> who? </search>", "<answer> me </answer>"])
    check(rollout, contexts)
    assert (rollout.status, rollout.answer, rollout.turns) == ("answered", "me", 2)
    assert rollout.queries == ["who?"]
    assert text(rollout, 0) == "\n\n<information>Doc 1(Title: Title) about who?</information>\n\n"
    assert rollout.malformed == {"empty_query": 0, "unfinished": 0, "no_action": 0}


def test_a_token_beyond_the_closing_tag_is_kept() -> None:
    rollout, contexts = play(["<search>a</search>\n", "<answer>b</answer>"])
    check(rollout, contexts)
    assert text(rollout, 1).startswith("<search>a</search>\n<answer>")


def test_a_query_that_only_straddles_is_executed_but_has_no_tokens() -> None:
    rollout, contexts = play(["<search>?</search>", "<answer>b</answer>"])
    check(rollout, contexts)
    assert rollout.queries == ["?"]
    assert [end - start for start, end in rollout.spans] == [0]


@pytest.mark.parametrize("byte", [0x84, 0x85, 0xA0])
def test_a_query_of_a_lone_byte_is_one_also_where_latin_1_has_a_space_there(byte: int) -> None:
    ids = {spelled: index for index, spelled in byte_table(TOKENIZER).items()}
    opened, closed = (TOKENIZER.encode(tag, add_special_tokens=False) for tag in ("<search>", "</search>"))
    dialogue = TagDialogue(TOKENIZER, R1, 64)
    turn = asyncio.run(dialogue.read([*opened, ids[bytes([byte])], *closed]))
    ((query, _),) = turn.requests[0].queries
    assert query == "\ufffd"


@pytest.mark.parametrize(
    ("turn", "kind"),
    [
        ("<search> </search>", "empty_query"),
        ("<search> cut", "unfinished"),
        ("just talk", "no_action"),
        ("", "no_action"),
    ],
)
def test_malformed_turns_are_told_and_counted(turn: str, kind: str) -> None:
    rollout, contexts = play([turn, "<answer>x</answer>"])
    check(rollout, contexts)
    assert rollout.malformed[kind] == sum(rollout.malformed.values()) == 1
    assert text(rollout, 0) == R1.invalid_action
    assert rollout.status == "answered"
    assert rollout.queries == []


def test_turn_limit() -> None:
    rollout, contexts = play(["<search>a</search>", "<search>b</search>", "<search>c</search>"], max_turns=2)
    check(rollout, contexts)
    assert rollout.status == "turn_limit"
    assert rollout.queries == ["a", "b", "c"]
    assert [s.query for s in rollout.searches] == ["a", "b"]


def test_no_answer() -> None:
    rollout, contexts = play(["hm", "hm"], max_turns=1)
    check(rollout, contexts)
    assert (rollout.status, rollout.answer) == ("no_answer", None)


def test_the_turn_budget_cuts_a_search() -> None:
    rollout, contexts = play(["<search> a long query </search>", "<answer>x</answer>"], max_turn_tokens=18)
    check(rollout, contexts)
    assert rollout.malformed["unfinished"] == 1
    assert len(contexts[1]) == len(PROMPT) + 18 + len(tokens(R1.invalid_action))


def test_context_overflow() -> None:
    rollout, contexts = play(["<search>a</search>", "never"], room=40)
    check(rollout, contexts, room=40)
    assert rollout.status == "context_overflow"
    assert text(rollout, 0) == ""  # an observation that leaves no room to react is not appended
    assert len(contexts) == 1
    none, contexts = play(["never"], room=0)
    assert (none.status, none.response_ids, contexts) == ("context_overflow", [], [])
    full, contexts = play(["x" * 50], room=20)
    check(full, contexts, room=20)
    assert full.status == "context_overflow"
    assert len(full.response_ids) == 20


def test_of_a_document_of_megabytes_only_the_beginning_is_encoded() -> None:
    encoder = TagDialogue(TOKENIZER, R1, 80)._encoder
    long = "word " * 1_000_000
    begun = time.monotonic()
    ids, is_cut = encoder.documents(SearchResult([Document("1", f"T\n{long}", 1.0)], 0.0, None))
    assert time.monotonic() - begun < 1.0
    whole = encoder.documents(SearchResult([Document("1", f"T\n{long[:5000]}", 1.0)], 0.0, None))
    assert (ids, is_cut) == (whole[0], True)
    short = "x" * 10
    assert enough_text(short, 80, TOKENIZER) == short


def test_long_observations_are_cut_at_their_end() -> None:
    """As Search-R1 does (``next_obs_ids[:, :max_obs_length]``): the closing tag goes first."""

    async def long(query: str) -> SearchResult:
        return SearchResult([Document("1", "T\n" + "x" * 500, 1.0)], 0.01, None)

    rollout, contexts = play(["<search>a</search>", "<answer>b</answer>"], long, max_observation_tokens=80)
    check(rollout, contexts)
    assert rollout.truncated_observations == 1
    assert rollout.response_mask.count(0) == 80
    whole = tokens(R1.observation(R1.documents(["T\n" + "x" * 500])))
    assert tokens(text(rollout, 0)) == whole[:80]
    assert rollout.answer == "b"


def test_line_ends_in_the_last_token_of_a_turn_are_not_doubled() -> None:
    """Peers cut a turn's text after its closing tag; we keep the sampled token and let it begin the observation."""
    for written in ("", "\n"):  # this tokenizer has a token of ">" and a line end
        turn = "<search>a</search>" + written
        rollout, contexts = play([turn, "<answer>b</answer>"])
        check(rollout, contexts)
        assert TOKENIZER.decode(rollout.response_ids).startswith("<search>a</search>\n\n<information>Doc 1")


@pytest.mark.parametrize(("search", "expected"), [(broken, R1.unavailable), (nothing, R1.no_results)])
def test_search_without_documents_is_said(search: Any, expected: str) -> None:
    rollout, contexts = play(["<search>a</search>", "<answer>b</answer>"], search)
    check(rollout, contexts)
    assert text(rollout, 0) == f"\n\n<information>{expected}</information>\n\n"
    assert [s.error for s in rollout.searches] == [None if search is nothing else "no server"]
    assert rollout.status == "answered"


def test_without_log_probs() -> None:
    rollout, contexts = play(["<search>a</search>", "<answer>b</answer>"], log_probs=False)
    check(rollout, contexts)
    assert rollout.log_probs is None


def test_unequal_log_probs_are_an_error() -> None:
    async def generate(context: list[int], max_tokens: int) -> Generation:
        return Generation([1, 2], [0.0])

    with pytest.raises(RuntimeError, match="1 log-probs for 2 tokens"):
        asyncio.run(run_rollout(Prompt("q", [], PROMPT), generate, found, TOKENIZER, R1, SearchConfig(), 100))


PIECES = ["<search>", "</search>", "<answer>", "</answer>", "<information>", "?", " q ", "\n", "é", "x" * 30]


@given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=7).map("".join), min_size=6, max_size=6), st.data()
)
@settings(max_examples=200, deadline=None)
def test_invariants_on_arbitrary_turns(turns: list[str], data: st.DataObject) -> None:
    # A real engine stops right after the first closing tag.
    cut = [next(R1.turns(turn), "") for turn in turns]
    room = data.draw(st.integers(1, 600))
    search = data.draw(st.sampled_from([found, broken, nothing]))
    limit = data.draw(st.integers(20, 200))
    rollout, contexts = play(cut, search, room, max_observation_tokens=limit, max_turns=5)
    check(rollout, contexts, room)
    assert (rollout.answer is not None) == (rollout.status == "answered")
    assert rollout.turns == len(contexts) <= 6
