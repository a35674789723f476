"""``sd-search ask``: what is shown is what happened."""

from __future__ import annotations

import asyncio
from typing import Any

from support.scripted import R1, TOKENIZER, config, found

from sd_search_verl.data.questions import Question
from sd_search_verl.evaluation.ask import step_by_step
from sd_search_verl.evaluation.config import EvaluationConfig
from sd_search_verl.evaluation.run import Session
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.rollout.loop import Generation


def play(options: EvaluationConfig) -> tuple[dict[str, Any], str]:
    """An episode of two searches and an answer: its record, and what was shown."""
    turns = iter(["<think>hm</think><search> one </search>", "<search>two</search>", "<answer>Bo</answer>"])

    async def generate(context: list[int], max_tokens: int, protocol: Protocol, seed: int) -> Generation:
        return Generation(TOKENIZER.encode(next(turns), add_special_tokens=False), None)

    async def search(query: str) -> SearchResult:
        return await found(query) if query == "one" else SearchResult(None, 0.5, "no server")

    shown: list[str] = []
    question = Question("ask", "0", "who?", [], R1.prompt("who?"))
    row = asyncio.run(step_by_step(question, Session(generate, search, TOKENIZER), options, shown.append))
    return row, "\n".join(shown)


def test_every_step_is_shown_in_order() -> None:
    row, text = play(config())
    assert row["answer"] == "Bo"
    assert "lost its start" not in text
    steps = ["question: who?", "<search> one </search>", "1. Title: about one", "<search>two</search>"]
    steps += ["unavailable: no server", "<answer>Bo</answer>", "answer: Bo", "2 searches"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def test_a_prompt_that_was_cut_is_said() -> None:
    row, text = play(config("max_prompt_tokens=64"))
    assert f"the prompt of {row['prompt_tokens']} tokens lost its start (max_prompt_tokens=64)" in text


def test_neither_model_nor_documents_command_the_terminal() -> None:
    """A passage that sets a title, clears the screen or goes back in a line would show what did not happen."""
    commands = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\x08\r"
    turns = iter(
        [f"<search>one{commands}</search>", "<search>two</search>", f"<answer>Bo{commands}</answer>"]
    )

    async def generate(context: list[int], max_tokens: int, protocol: Protocol, seed: int) -> Generation:
        return Generation(TOKENIZER.encode(next(turns), add_special_tokens=False), None)

    async def search(query: str) -> SearchResult:
        if query == "two":
            return SearchResult(None, 0.5, f"no server{commands}")
        contents = f"Title{commands}\na passage{commands}\nin two lines"
        return SearchResult([Document("1", contents, 1.0)], 0.1, None)

    shown: list[str] = []
    question = Question("ask", "0", f"who{commands}", [], R1.prompt("who?"))
    asyncio.run(step_by_step(question, Session(generate, search, TOKENIZER), config(), shown.append))
    for line in "\n".join(shown).split("\n"):
        assert line.isprintable(), line
    (passage,) = (text for text in shown if "a passage" in text)
    assert passage.startswith("   1. Title\ufffd]0;owned")
    assert passage.endswith(" in two lines")
    assert "\n" not in passage, "it could pose as a step"
