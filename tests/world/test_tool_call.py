"""The world in tool calls: the same tokens spelled anew, and a shipped model that calls."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from transformers import AutoTokenizer

from sd_search_verl.config import SearchConfig
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.rollout.loop import Generation, run_rollout
from sd_search_verl.rollout.types import Prompt
from sd_search_verl.verl_adapter.rollout.tool_dialogue import ToolDialogue
from sd_search_verl.world import text
from sd_search_verl.world.config import TOOL_CHECKPOINT
from sd_search_verl.world.facts import World
from sd_search_verl.world.files import difficulty
from sd_search_verl.world.model import load_model
from sd_search_verl.world.questions import questions
from sd_search_verl.world.sampling import next_token_logits
from sd_search_verl.world.tokenizer import build_tokenizer
from sd_search_verl.world.tool_call import CALL_CLOSE, CALL_OPEN, END, PROTOCOL, build_tool_tokenizer


def test_a_piece_keeps_its_id() -> None:
    plain, spelled = build_tokenizer(), build_tool_tokenizer()
    changed = {index: token for token, index in plain.get_vocab().items() if token not in spelled.get_vocab()}
    assert {spelled.convert_ids_to_tokens(index) for index in changed} >= {CALL_OPEN, CALL_CLOSE, END}
    assert len(changed) == 8
    ids = plain.encode("Question: mentor of Ada ?\n")
    assert spelled.encode("Question: mentor of Ada ?\n") == ids
    prompt = encode_messages(text.prompt("mentor of Ada ?"), spelled, PROTOCOL.template_kwargs)
    assert prompt[1:-1] == ids  # what the template writes around it, tools included, is one token each


def test_the_shipped_tokenizer_is_the_one_that_is_built() -> None:
    shipped = AutoTokenizer.from_pretrained(TOOL_CHECKPOINT)
    built = build_tool_tokenizer()
    assert shipped.get_vocab() == built.get_vocab()
    assert shipped.chat_template == built.chat_template


def test_the_shipped_model_calls_and_answers() -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(TOOL_CHECKPOINT), load_model(TOOL_CHECKPOINT).eval()
    world = World(difficulty(TOOL_CHECKPOINT))
    generator = torch.Generator().manual_seed(0)
    ends = PROTOCOL.end_ids(tokenizer)

    async def generate(context: list[int], max_tokens: int) -> Generation:
        found: list[int] = []
        while len(found) < max_tokens and not (found and found[-1] in ends):
            logits = next_token_logits(model, [[*context, *found]])[0]
            found.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
        return Generation(found, None)

    async def search(query: str) -> SearchResult:
        return SearchResult([Document("1", passage, 1.0) for passage in world.retrieve(query)], 0.0, None)

    config = SearchConfig(protocol="tool_call", max_turns=3, max_turn_tokens=24, max_observation_tokens=64)
    kwargs: dict[str, Any] = PROTOCOL.template_kwargs
    dialogue = ToolDialogue(tokenizer, PROTOCOL, "qwen2", kwargs, 64, {})
    rollouts = []
    for question in questions(world, "val")[:6]:
        prompt = Prompt.encode(
            "q", text.prompt(question.text), [world.answer(question)], tokenizer, kwargs, 64
        )
        asked = run_rollout(prompt, generate, search, tokenizer, PROTOCOL, config, 192, dialogue)
        rollouts.append(asyncio.run(asked))
    assert sum(rollout.status == "answered" for rollout in rollouts) >= 5
    assert sum(len(rollout.queries) for rollout in rollouts) >= 6
    assert not any(rollout.malformed["unlocated"] for rollout in rollouts)
