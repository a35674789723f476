"""CPU time of a rollout's agent loop: in tags, in tool calls, and in verl's own tool agent on the same tool calls.

    python -m benchmarks.cost.loop --tokenizer DIR      DIR: a Qwen tokenizer whose template shows tools

The policy's turns are given: two searches and an answer, the same words in each loop, and three documents a search.
Rollout engine and retriever answer at once: what is left is templates, tokens, parsers and records. Rounds alternate.
Appends a row per loop to ``loop.csv``, DIR's name as ``template``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("VERL_PLATFORM", "cpu")  # verl reads it when it is imported

import verl  # noqa: F401  (registers our config group)
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import OpenAIFunctionToolSchema

from benchmarks.arguments import add_option, command_parser
from benchmarks.machine import device_name
from benchmarks.table import append_rows
from sd_search_verl.protocol import get
from sd_search_verl.protocol.prompt import render_messages
from sd_search_verl.protocol.tools import SCHEMAS
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.verl_adapter.rollout import agent_loop

CSV = Path(__file__).with_suffix(".csv")
QUERIES = ("who wrote the book", "when was she born")
WORDS = ("river", "Hattusa", "1857", "granite", "the", "of", "was", "tower", "naïve", "keeper,", "light.")
ROLLOUTS = 20
"""Of a loop in a round."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, append."""
    parser = command_parser(__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="with a chat template")
    add_option(parser, "--words", 60, "words of a document", "WORDS")
    add_option(parser, "--rounds", 9, "rounds, in which every loop has its turn", "ROUNDS")
    options = parser.parse_args(argv)
    tokenizer, draw = AutoTokenizer.from_pretrained(options.tokenizer), random.Random(0)
    tools = [SCHEMAS["search"]]
    if "what to search for" not in render_messages(
        [{"role": "user", "content": ""}], tokenizer, {"tools": tools}
    ):
        parser.error(f"the chat template of {options.tokenizer} does not show tools")
    texts = [" ".join(draw.choices(WORDS, k=options.words)) for _ in range(3)]
    loops = {
        "tags": rollouts(tokenizer, "search_r1", agent_loop.SearchAgentLoop, texts),
        "tool calls": rollouts(tokenizer, "tool_call", agent_loop.SearchAgentLoop, texts),
        "tool calls, verl's tool agent": rollouts(tokenizer, "tool_call", ToolAgentLoop, texts),
    }
    taken: dict[str, list[float]] = {name: [] for name in loops}
    outputs: dict[str, Any] = {}
    for number in range(options.rounds + 1):
        for name, run in loops.items():
            start = time.process_time()
            outputs[name] = run()
            if number:  # the first starts caches
                taken[name].append((time.process_time() - start) / ROLLOUTS * 1000)
    for name, values in taken.items():
        ratios = [value / tags for value, tags in zip(values, taken["tags"], strict=True)]
        row = {
            "device": device_name("cpu"),
            "template": options.tokenizer.name,
            "words": options.words,
            "loop": name,
            "prompt_tokens": len(outputs[name].prompt_ids),
            "sampled_tokens": sum(outputs[name].response_mask),
            "response_tokens": len(outputs[name].response_ids),
            "cpu_ms_per_rollout": f"{statistics.median(values):.2f}",
            "lowest": f"{min(values):.2f}",
            "highest": f"{max(values):.2f}",
            "of_tags": f"{statistics.median(ratios):.2f}",
        }
        print(row)
        append_rows(CSV, [row])


def rollouts(tokenizer: Any, protocol: str, cls: type[Any], texts: Sequence[str]) -> Callable[[], Any]:
    """Return a function that runs :data:`ROLLOUTS` rollouts one after the other and returns the last."""
    multi_turn = "actor_rollout_ref.rollout.multi_turn"
    overrides = [
        *("+sd_search=default", f"search.protocol={protocol}", f"{multi_turn}.format=hermes"),
        f"{multi_turn}.max_tool_response_length=100000",
        *("data.max_prompt_length=4000", "data.max_response_length=8000"),
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=overrides)
    OmegaConf.resolve(config.actor_rollout_ref.rollout)  # as main_ppo does
    result = SearchResult(
        [Document(str(i), f"Title\n{text}", 1.0) for i, text in enumerate(texts)], 0.01, None
    )
    shown = get("tool_call:hermes").documents([document.contents for document in result.documents or []])

    async def search(query: str) -> Any:
        return result

    async def verls_search(query: str) -> str:
        return shown

    agent_loop.shared_client = lambda _: SimpleNamespace(search=search, tools={})  # type: ignore[assignment, return-value]
    schema = OpenAIFunctionToolSchema.model_validate(SCHEMAS["search"])
    tools = [FunctionTool("search", verls_search, schema, is_async=True)] if cls is ToolAgentLoop else []
    turns = [tokenizer.encode(text, add_special_tokens=False) for text in written(protocol)]

    question = get("tool_call:hermes" if protocol == "tool_call" else protocol).prompt("who wrote the book")

    async def one() -> Any:
        loop = cls(
            trainer_config=DictConfigWrap(config),
            server_manager=Server(turns),
            tokenizer=tokenizer,
            processor=None,
            dataset_cls=None,
            data_config=DictConfigWrap(config.data),
            hf_model_type="qwen3",
            tools=ToolListWrap(tools),
        )
        row = {"uid": "u", "session_id": 0, "global_steps": 1, "reward_model": {"ground_truth": ["me"]}}
        return await loop.run({"logprobs": True}, raw_prompt=question, **row)

    async def several() -> Any:
        return [await one() for _ in range(ROLLOUTS)][-1]

    return lambda: asyncio.run(several())


def written(protocol: str) -> list[str]:
    """Return the policy's turns."""
    thinking = " ".join(WORDS * 4)
    if protocol == "search_r1":
        queries = [f"<think>{thinking}</think><search> {query} </search>" for query in QUERIES]
        return [*queries, f"<think>{thinking}</think><answer> me </answer>"]
    calls = [json.dumps({"name": "search", "arguments": {"query": query}}) for query in QUERIES]
    turns = [f"{thinking}\n<tool_call>\n{call}\n</tool_call><|im_end|>" for call in calls]
    return [*turns, f"{thinking}\n<answer> me </answer><|im_end|>"]


class Server:
    """Stands for the rollout engine."""

    def __init__(self, turns: Sequence[list[int]]) -> None:
        self._turns = iter(turns)

    async def generate(self, **_: Any) -> Any:
        """Return the next turn."""
        ids = next(self._turns)
        return SimpleNamespace(
            token_ids=ids,
            log_probs=[-0.5] * len(ids),
            extra_fields={},
            num_preempted=None,
            routed_experts=None,
        )


if __name__ == "__main__":
    main()
