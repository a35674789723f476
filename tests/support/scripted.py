"""A policy by rule, on a byte tokenizer: everything of an evaluation but the model is the real thing."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

from sd_search_verl.data.questions import Question
from sd_search_verl.evaluation.config import EvaluationConfig, read_settings
from sd_search_verl.evaluation.results import ordered, summarize
from sd_search_verl.evaluation.run import Session, run_questions
from sd_search_verl.evaluation.trajectories import TrajectoryFile
from sd_search_verl.protocol import get
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.rollout.loop import Generation
from support.tiny import byte_tokenizer

TOKENIZER = byte_tokenizer()
R1 = get("search_r1")


class Policy:
    """Searches for a while, then answers; what it does follows from the turn's seed. Counts what it is asked."""

    def __init__(self, seconds_per_turn: float = 0.0) -> None:
        self.seconds_per_turn = seconds_per_turn
        self.first_turns = 0

    async def generate(
        self, context: list[int], max_tokens: int, protocol: Protocol, seed: int
    ) -> Generation:
        await asyncio.sleep(self.seconds_per_turn)
        draw = random.Random(seed)
        text = TOKENIZER.decode(context).rpartition("Question: ")[2]
        self.first_turns += protocol.observation_close not in text
        if draw.random() < 0.3:
            turn = f"<search> {draw.randint(0, 9)} </search>"
        elif draw.random() < 0.1:
            turn = "hm"
        else:
            turn = f"<answer> {draw.randint(0, 3)} </answer>"
        return Generation(TOKENIZER.encode(turn, add_special_tokens=False)[:max_tokens], None)


async def found(query: str) -> SearchResult:
    """Always one passage."""
    return SearchResult([Document("1", f"Title\nabout {query}", 1.0)], 0.01, None)


def config(*overrides: str) -> EvaluationConfig:
    """Seeded sampling with the given overrides."""
    return read_settings(None, ["temperature=1", *overrides]).config


def write_questions(path: Path, count: int) -> Path:
    """Questions whose answer is a digit that the policy may guess."""
    rows = [{"id": f"q{i}", "question": f"number {i}", "golden_answers": [str(i % 4)]} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(
    questions: list[Question],
    out: Path,
    options: EvaluationConfig,
    policy: Policy,
    search: Any = found,
) -> dict[str, Any]:
    """Ask what is missing in ``out/trajectories.jsonl``; returns the summary."""
    out.mkdir(exist_ok=True)
    with TrajectoryFile(out / "trajectories.jsonl") as file:
        asyncio.run(run_questions(questions, Session(policy.generate, search, TOKENIZER), options, file))
        keys = [(q.set, q.id, seed) for seed in options.seeds for q in questions]
        return summarize(ordered(file.rows, keys))


def rows_of(sets: dict[str, list[int]], **changes: Any) -> dict[Any, dict[str, Any]]:
    """Trajectories with the given EM."""
    row = {
        "f1": 0.0,
        "cover_em": 1.0,
        "gold_in_documents": [False, True],
        "malformed": {"no_action": 0},
        "truncated_observations": 0,
        "truncated_prompt": False,
        "answer": "x",
        "status": "answered",
        "failures": 0,
        "latency_s": 1.0,
        "latencies_s": [0.1, 0.3],
        **changes,
    }
    return {(name, str(i), 0): {**row, "em": em} for name, ems in sets.items() for i, em in enumerate(ems)}
