"""Run questions through the training's own agent loop, many at once; each rollout is written when it ends."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from sd_search_verl.data.questions import Question
from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.config import EvaluationConfig
from sd_search_verl.evaluation.trajectories import TrajectoryFile
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.retriever_client.reply import SearchFunction, SearchResult
from sd_search_verl.rollout.dialogue import Dialogue, protocol_of
from sd_search_verl.rollout.loop import Generation, run_rollout
from sd_search_verl.rollout.record import to_record
from sd_search_verl.rollout.types import Prompt

Generate = Callable[[list[int], int, Protocol, int], Awaitable[Generation]]
"""Context, token limit, protocol and seed of a turn -> its tokens."""


@dataclass(frozen=True)
class Session:
    """What rollouts are made with; ``dialogue`` is None for a protocol of tags."""

    generate: Generate
    search: SearchFunction
    tokenizer: Any
    dialogue: Dialogue | None = None


MIN_FAILURES = 5
"""Fewer failures do not stop an evaluation: of few searches they are a large share."""


class SearchFailedError(UserError):
    """Too many searches failed; finished rollouts are kept, and the same command resumes."""


async def run_questions(
    questions: Sequence[Question], session: Session, config: EvaluationConfig, file: TrajectoryFile
) -> None:
    """Run every question that the file lacks, once per seed, and append the rollouts to the file.

    A rollout with a failed search is repeated once, after all others; then it counts as it is, because a server may
    refuse a query for good.

    Raises:
        SearchFailedError: more than ``max_failure_rate`` of the searches failed.
    """
    todo = [
        (question, seed)
        for seed in config.seeds
        for question in questions
        if (question.set, question.id, seed) not in file.rows
    ]
    monitor = _FailureMonitor(session.search, config.max_failure_rate)
    session = replace(session, search=monitor.search)
    done = len(questions) * len(config.seeds) - len(todo)
    with tqdm(total=done + len(todo), initial=done, unit="question", dynamic_ncols=True) as bar:

        async def ask(question: Question, seed: int, final: bool) -> bool:
            row = await run_question(question, seed, session, config)
            if row["failures"] and not final:
                return False
            file.append(row)
            bar.update()
            return True

        failed = await _in_parallel(todo, lambda q, s: ask(q, s, False), config.concurrency)
        await _in_parallel(failed, lambda q, s: ask(q, s, True), config.concurrency)


async def run_question(
    question: Question, seed: int, session: Session, config: EvaluationConfig
) -> dict[str, Any]:
    """Run one rollout; return its line of ``trajectories.jsonl``."""
    protocol = protocol_of(config.search)
    prompt = Prompt.encode(
        question.id,
        question.messages,
        question.golden_answers,
        session.tokenizer,
        config.template_kwargs(),
        config.max_prompt_tokens,
    )
    begun, turn = time.monotonic(), 0

    async def one_turn(context: list[int], max_tokens: int) -> Generation:
        nonlocal turn
        turn += 1
        return await session.generate(context, max_tokens, protocol, turn_seed(seed, question, turn))

    rollout = await run_rollout(
        prompt,
        one_turn,
        session.search,
        session.tokenizer,
        protocol,
        config.search,
        config.max_response_tokens,
        session.dialogue,
    )
    return {
        "set": question.set,
        "id": question.id,
        "seed": seed,
        "question": question.question,
        **to_record(rollout),
        "latency_s": round(time.monotonic() - begun, 4),
    }


def turn_seed(seed: int, question: Question, turn: int) -> int:
    """Return the seed of one turn's sampling, in [0, 2^63); it does not depend on the order of the questions."""
    text = json.dumps([seed, question.set, question.id, turn])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class _FailureMonitor:
    """Pass searches on, and stop the evaluation when too many fail."""

    def __init__(self, search: SearchFunction, max_failure_rate: float) -> None:
        self._search, self._most = search, max_failure_rate
        self._searches = self._failures = 0

    async def search(self, query: str) -> SearchResult:
        found = await self._search(query)
        self._searches += 1
        self._failures += found.error is not None
        if self._failures >= MIN_FAILURES and self._failures > self._most * self._searches:
            raise SearchFailedError(
                f"{self._failures} of {self._searches} searches failed (max_failure_rate={self._most:g}), "
                f"the last with: {found.error}. Finished rollouts are kept. Fix: repeat the command once the server "
                "answers"
            )
        return found


async def _in_parallel(
    todo: Iterable[tuple[Question, int]], ask: Callable[[Question, int], Awaitable[bool]], workers: int
) -> list[tuple[Question, int]]:
    """Call ``ask`` for each item, ``workers`` at a time; return the items for which it returned False.

    The first error cancels all.
    """
    unfinished = []
    queue = iter(todo)

    async def work() -> None:
        for question, seed in queue:
            if not await ask(question, seed):
                unfinished.append((question, seed))

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return unfinished
