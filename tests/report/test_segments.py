"""Cutting responses: every character appears once, and under the right kind."""

from __future__ import annotations

from typing import Any

from sd_search_verl.report.segments import segments, whole_characters
from sd_search_verl.rollout.types import Prompt, Rollout
from sd_search_verl.runs.schema import Trace


def trace(tokens: list[tuple[str, int]], spans: list[list[int]], **more: Any) -> Trace:
    texts = [text for text, _ in tokens]
    rollout = Rollout(Prompt("g", [], []), response="".join(texts), response_mask=[m for _, m in tokens])
    recorded = Trace.of(1, rollout, 0.0, texts)
    return Trace(**{**dict(recorded), "spans": spans, **more})


def joined(parts: list[tuple[Any, ...]]) -> str:
    return "".join("".join(part[1]) if part[0] == "query" else part[1] for part in parts)


POLICY = ["<th", "ink>", "hm", "</think>", "\n", "<search>", " Emma", " author", "?</", "search", ">"]
DOCUMENTS = ["\n\n<", "information>", "Doc 1(Title: Emma) <search> trap </search>", "</information>\n\n"]
TURNS = [
    *[(t, 1) for t in POLICY],
    *[(t, 0) for t in DOCUMENTS],
    ("<answer>", 1),
    (" Jane", 1),
    ("</answer>", 1),
]


def test_kinds_and_texts() -> None:
    found = segments(trace(TURNS, [[6, 8]]))
    assert joined(found) == "".join(text for text, _ in TURNS)
    assert found == [
        ("tag", "<think>"),
        ("think", "hm"),
        ("tag", "</think>"),
        ("blank", "\n"),
        ("tag", "<search>"),
        ("query", [" Emma", " author"], None, None),
        ("search", "?"),
        ("tag", "</search>"),
        ("blank", "\n\n"),
        ("tag", "<information>"),
        ("documents", "Doc 1(Title: Emma) <search> trap </search>"),
        ("tag", "</information>"),
        ("blank", "\n\n"),
        ("tag", "<answer>"),
        ("answer", " Jane"),
        ("tag", "</answer>"),
    ]


def test_documents_stay_whole_whatever_they_hold() -> None:
    text = "\n\n<documents>a </documents> b <information> c</documents>\n\n"
    kinds = [part for part in segments(trace([(text, 0)], [])) if part[0] == "documents"]
    assert kinds == [("documents", "a </documents> b <information> c")]
    cut = segments(trace([("<information>cut", 0)], []))
    assert cut == [("tag", "<information>"), ("documents", "cut")]


def test_text_of_the_environment_outside_its_tags_is_a_notice() -> None:
    tokens = [("<search>", 1), ("\nMy previous action is invalid.\n", 0), ("hm", 1)]
    assert [part[0] for part in segments(trace(tokens, []))] == ["tag", "notice", "text"]


def test_documents_that_the_policy_invents_are_its_text() -> None:
    assert segments(trace([("<information>made up</information>", 1)], []))[0][0] == "text"


def test_credit_follows_the_query_tokens() -> None:
    recorded = trace(TURNS, [[0, 0], [6, 8]], credit=[[], [0.5, -1.0]], divergence=[[], [0.1, None]])
    (query,) = [part for part in segments(recorded) if part[0] == "query"]
    assert query == ("query", [" Emma", " author"], [0.5, -1.0], [0.1, None])


def test_a_query_without_a_token_of_its_own_has_no_boxes() -> None:
    found = segments(trace([("<search> x</search>", 1)], [[0, 0]]))
    assert [part[0] for part in found] == ["tag", "search", "tag"]


def test_characters_split_over_tokens_are_put_together() -> None:
    assert whole_characters(["a ", "\ufffd", "\ufffd", "b"], "a 京b") == ["a ", "京", "", "b"]
    assert whole_characters(["\ufffd", "\ufffd\ufffd"], "東京") == ["東京", ""]
    assert whole_characters([" \ufffd", "\ufffd", " x"], " é x") == [" é", "", " x"]
    # The policy may write U+FFFD, or a text that does not fit; then tokens are shown as they are.
    assert whole_characters(["\ufffd", "x"], "\ufffdx") == ["\ufffd", "x"]
    assert whole_characters(["\ufffd", "x"], "other") == ["\ufffd", "x"]


CALL = [
    "<tool_call>",
    '\n{"name": "search", "arguments": {"query": "',
    "Emma",
    " author",
    '?"}}\n',
    "</tool_call>",
]
MESSAGE = [
    "\n<|im_start|>user\n",
    "<tool_response>\nDoc 1(Title: Emma) text\n</tool_response>\n<tool_response>\npage 2\n</tool_response>",
    "<|im_end|>\n<|im_start|>assistant\n",
]


def test_a_tool_call_is_a_call_with_its_query_in_it() -> None:
    turns = [("hm ", 1), *[(t, 1) for t in CALL], ("<|im_end|>", 1), *[(t, 0) for t in MESSAGE], ("x", 1)]
    found = segments(trace(turns, [[3, 5]]))
    assert joined(found) == "".join(text for text, _ in turns)
    assert found == [
        ("text", "hm "),
        ("tag", "<tool_call>"),
        ("call", CALL[1]),
        ("query", ["Emma", " author"], None, None),
        ("call", CALL[4]),
        ("tag", "</tool_call>"),
        ("text", "<|im_end|>"),
        ("tag", "\n<|im_start|>user\n<tool_response>\n"),
        ("documents", "Doc 1(Title: Emma) text"),
        ("tag", "\n</tool_response>\n<tool_response>\n"),
        ("result", "page 2"),
        ("tag", "\n</tool_response><|im_end|>\n<|im_start|>assistant\n"),
        ("text", "x"),
    ]
