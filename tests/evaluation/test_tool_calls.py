"""Evaluation in tool calls: the training's own loop, what identifies a run, and scoring of texts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.chat_templates import chat_tokenizer
from support.scripted import found
from support.tokenizer_families import family as tokenizer_of

from sd_search_verl.data.questions import read_questions
from sd_search_verl.evaluation.config import identity, protocol_hash, read_settings
from sd_search_verl.evaluation.run import Session, run_questions
from sd_search_verl.evaluation.score import ScoreFields, score_file
from sd_search_verl.evaluation.trajectories import TrajectoryFile
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.rollout.dialogue import protocol_of
from sd_search_verl.rollout.loop import Generation
from sd_search_verl.verl_adapter.rollout.tool_dialogue import ToolDialogue

CODER = chat_tokenizer(tokenizer_of("llama-3"), "hermes")
CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "number"}}\n</tool_call><|im_end|>'


async def generate(context: list[int], max_tokens: int, protocol: Protocol, seed: int) -> Generation:
    text = CODER.decode(context)
    answer = "<answer>1</answer><|im_end|>"
    return Generation(
        CODER.encode(answer if "about number" in text else CALL, add_special_tokens=False), None
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("evaluation")
    lines = [{"id": f"q{i}", "question": f"number {i}", "golden_answers": [str(i)]} for i in range(3)]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = read_settings(None, ["search.protocol=tool_call"]).config
    protocol: Any = protocol_of(config.search)
    dialogue = ToolDialogue(CODER, protocol, "qwen3", protocol.template_kwargs, 512, {})
    questions = read_questions(path, "own", protocol)
    with TrajectoryFile(folder / "trajectories.jsonl") as file:
        asyncio.run(run_questions(questions, Session(generate, found, CODER, dialogue), config, file))
        return list(file.rows.values())


def test_a_rollout_calls_reads_and_answers(rows: list[dict[str, Any]]) -> None:
    assert [row["em"] for row in rows] == [0.0, 1.0, 0.0]
    for row in rows:
        assert (row["queries"], row["status"], row["turns"]) == (["number"], "answered", 2)
        assert "<tool_response>\nDoc 1(Title: Title) about number" in row["response"]


def test_written_rollouts_are_scored_alike(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for protocol in (None, "tool_call", "tool_call:hermes"):
        scored = score_file(path, ScoreFields(), protocol)
        assert scored.unanswered == 0
        assert next(iter(scored.sets.values()))["EM"] == [row["em"] for row in rows]


def test_tool_calls_identify_a_run_only_where_they_are_read() -> None:
    tags, calls = (
        read_settings(None, [f"search.protocol={name}"]).config for name in ("search_r1", "tool_call")
    )
    assert "tool_call" not in identity(tags)["search"]
    assert identity(calls)["search"]["tool_call"]["family"] == "hermes"
    other = read_settings(None, ["search.protocol=tool_call", "search.tool_call.family=qwen3_coder"]).config
    more = read_settings(None, ["search.protocol=tool_call", "search.tool_call.tools=[search,read]"]).config
    assert len({protocol_hash(config) for config in (tags, calls, other, more)}) == 4
