"""``sd-search ask``: one question, every turn and every document shown as it comes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sd_search_verl.data.jsonl import check_text
from sd_search_verl.data.questions import Question
from sd_search_verl.errors import UserError, one_line, printable
from sd_search_verl.evaluation.config import EvaluationConfig
from sd_search_verl.evaluation.engine import open_session
from sd_search_verl.evaluation.model import resolve_model
from sd_search_verl.evaluation.run import Session, run_question
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.retriever_client.identity import identify
from sd_search_verl.retriever_client.reply import SearchResult
from sd_search_verl.rollout.dialogue import protocol_of
from sd_search_verl.rollout.loop import Generation

Show = Callable[[str], object]


def ask(text: str, model: Path, config: EvaluationConfig) -> None:
    """Answer a question on the terminal.

    Raises:
        UserError: the question is no text, the retriever does not answer, or two servers search different indexes.
    """
    if (problem := check_text(1, "question", text)) is not None:
        raise UserError(f"the question {text[:60]!r} {problem.reason}")
    identify(config.search.retriever_urls)
    question = Question("ask", "0", text, [], protocol_of(config.search).prompt(text))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_ask(question, resolve_model(model, Path(folder)), config))


async def step_by_step(
    question: Question, session: Session, config: EvaluationConfig, show: Show
) -> dict[str, Any]:
    """Run one rollout, ``show`` each step of it, and return its record."""

    def say(text: str) -> None:
        show(printable(text))

    async def shown_turn(context: list[int], max_tokens: int, protocol: Protocol, seed: int) -> Generation:
        generation = await session.generate(context, max_tokens, protocol, seed)
        say(
            f"\n── model ({len(generation.token_ids)} tokens)\n{decode(generation.token_ids, session.tokenizer)}"
        )
        return generation

    async def shown_search(query: str) -> SearchResult:
        found = await session.search(query)
        say(f"\n── retriever ({1000 * found.latency_s:.0f} ms): {one_line(query)}")
        if found.documents is None:
            say(f"   unavailable: {found.error}")
        for number, document in enumerate(found.documents or [], start=1):
            title, _, body = document.contents.partition("\n")
            # On its own line, or a passage could pose as a step.
            say(f"   {number}. {title}: {one_line(body[:160])}{'…' if len(body) > 160 else ''}")
        return found

    say(f"question: {question.question}")
    shown = replace(session, generate=shown_turn, search=shown_search)
    row = await run_question(question, config.seeds[0], shown, config)
    if row["truncated_prompt"]:
        say(
            f"\nthe prompt of {row['prompt_tokens']} tokens lost its start "
            f"(max_prompt_tokens={config.max_prompt_tokens})"
        )
    ended = "" if row["status"] == "answered" else f" ({row['status']})"
    say(f"\nanswer: {row['answer'] if row['answer'] is not None else 'none'}{ended}")
    say(f"{len(row['latencies_s'])} searches, {row['policy_tokens']} tokens, {row['latency_s']:.1f} s")
    return row


async def _ask(question: Question, model: Path, config: EvaluationConfig) -> None:
    async with open_session(model, config, [question]) as session:
        await step_by_step(question, session, config, print)
