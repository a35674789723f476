"""Runs made by the trainer's own writer, so that reader and writer cannot drift apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd_search_verl.rollout.types import Prompt, Rollout, Search
from sd_search_verl.runs.schema import Trace
from sd_search_verl.runs.writer import append_metrics, append_traces

Tokens = list[tuple[str, int]]
"""Text of each response token with its mask."""

TOKENS: Tokens = [
    *[(text, 1) for text in ("<think>", "who", " wrote", " it", "</think>", "\n", "<search>")],
    *[(text, 1) for text in (" author", " Emma", "?</", "search", ">")],
    *[
        (text, 0)
        for text in ("\n\n<information>", "Doc 1(Title: Emma)", " by Jane Austen", "</information>\n\n")
    ],
    *[(text, 1) for text in ("<answer>", " Jane", " Austen", " </answer>")],
]


def add_step(
    folder: Path,
    step: int,
    metrics: dict[str, Any],
    answers: list[str] | None = None,
    question: str = "Who wrote Emma?",
    tokens: Tokens = TOKENS,
    blocks: list[str] | None = None,
) -> None:
    """Write a step as the trainer does: its metrics, and a group with one rollout per answer."""
    append_metrics(folder, step, metrics)
    texts = [text for text, _ in tokens]
    messages = [{"role": "user", "content": f"Answer the question. Question: {question}\n"}]
    prompt = Prompt(f"{step}-{question}", messages, [0], ["Jane Austen"])
    rollouts = []
    for answer in answers or []:
        right = float(answer == "Jane Austen")
        rollouts.append(
            Rollout(
                prompt,
                response_ids=list(range(len(tokens))),
                response_mask=[mask for _, mask in tokens],
                queries=["author Emma"],
                spans=[(7, 9)],
                searches=[Search("author Emma", "", 0.0, None, has_gold=True)],
                answer=answer,
                status="answered",
                response="".join(texts),
                em=right,
                f1=right,
            )
        )
    append_traces(folder, [Trace.of(step, r, r.f1, texts, blocks=blocks or []) for r in rollouts])


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """``make_run(name, values, ...)``: a run folder with one step per entry of ``values``."""

    def make(name: str, values: list[dict[str, Any]], **step: Any) -> Path:
        folder = tmp_path / name
        for number, metrics in enumerate(values, start=1):
            add_step(folder, number, metrics, **step)
        return folder

    return make
