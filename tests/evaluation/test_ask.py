"""``sd-search ask``: what is shown is what happened."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from scripted import R1, TOKENIZER, config, found

from sd_search_verl.evaluation.ask import step_by_step
from sd_search_verl.evaluation.questions import Question
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.rollout.episode import Generation
from sd_search_verl.rollout.retriever import SearchResult


def test_every_step_is_shown_in_order() -> None:
    turns = iter(["<think>hm</think><search> one </search>", "<search>two</search>", "<answer>Bo</answer>"])

    async def generate(context: list[int], max_tokens: int, protocol: Protocol, seed: int) -> Generation:
        return Generation(TOKENIZER.encode(next(turns), add_special_tokens=False), None)

    async def search(query: str) -> SearchResult:
        return await found(query) if query == "one" else SearchResult(None, 0.5, "no server")

    shown: list[str] = []
    question = Question("ask", "0", "who?", [], R1.prompt("who?"))
    row = asyncio.run(step_by_step(question, generate, search, TOKENIZER, config(), shown.append))
    assert row["answer"] == "Bo"
    text = "\n".join(shown)
    steps = ["question: who?", "<search> one </search>", "1. Title: about one", "<search>two</search>"]
    steps += ["unavailable: no server", "<answer>Bo</answer>", "answer: Bo", "2 searches"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
