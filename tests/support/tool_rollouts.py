"""Rollouts of tool calls of which a script says the policy's turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any

from sd_search_verl.config import SearchConfig
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.protocol.tool_call import ToolCallProtocol
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.rollout.dialogue import protocol_of
from sd_search_verl.rollout.loop import Generation, run_rollout
from sd_search_verl.rollout.types import Prompt, Rollout
from sd_search_verl.verl_adapter.rollout.tool_dialogue import ToolDialogue
from support.chat_templates import MODEL_TYPES, chat_tokenizer
from support.tokenizer_families import family as tokenizer_of

QUESTION = [{"role": "user", "content": "Question: who?\n"}]
KINDS = dict.fromkeys(
    (
        *("empty_query", "unfinished", "no_action"),
        *("bad_call", "unknown_tool", "bad_arguments", "unlocated"),
    ),
    0,
)


@cache
def tokenizer(family: str, base: str = "llama-3") -> Any:
    return chat_tokenizer(tokenizer_of(base), family)


class Counting:
    """A tokenizer that keeps the texts that it encodes."""

    def __init__(self, coder: Any) -> None:
        self._coder = coder
        self.texts: list[str] = []

    def encode(self, text: str, **options: Any) -> Any:
        self.texts.append(text)
        return self._coder.encode(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coder, name)


def ended(family: str, text: str) -> str:
    """A turn with the token that ends it."""
    if family == "gemma4":
        return text if text.endswith("<tool_call|>") else f"{text}<turn|>"
    return f"{text}<|im_end|>"


async def found(query: str) -> SearchResult:
    return SearchResult([Document("7", f"Title\nabout {query}", 1.0)], 0.01, None)


def play(
    family: str,
    turns: list[str],
    room: int = 4000,
    search: Callable[[str], Any] = found,
    tools: dict[str, Any] | None = None,
    coder: Any = None,
    template_kwargs: dict[str, Any] | None = None,
    kept: list[str] | None = None,
    **limits: Any,
) -> Rollout:
    """Run a rollout whose policy says ``turns``, and check what must hold of every rollout.

    ``kept`` are the turns that remain of what an engine sampled beyond their ends.
    """
    coder = coder or tokenizer(family)
    options = {"family": family, **limits.pop("tool_call", {})}
    config = SearchConfig.model_validate({"protocol": "tool_call", "tool_call": options, **limits})
    protocol = protocol_of(config)
    assert isinstance(protocol, ToolCallProtocol)
    kwargs = {**(template_kwargs or {}), **protocol.template_kwargs}
    prompt = Prompt.encode("q", QUESTION, ["me"], coder, kwargs, 10_000)
    script = iter(turns)
    contexts: list[list[int]] = []
    sampled: list[int] = []

    async def generate(context: list[int], max_tokens: int) -> Generation:
        contexts.append(list(context))
        ids = coder.encode(next(script), add_special_tokens=False)[:max_tokens]
        sampled.extend(ids)
        return Generation(ids, [-0.5] * len(ids))

    dialogue = ToolDialogue(
        coder, protocol, MODEL_TYPES[family], kwargs, config.max_observation_tokens, tools or {}
    )
    rollout = asyncio.run(run_rollout(prompt, generate, search, coder, protocol, config, room, dialogue))
    assert len(rollout.response_ids) == len(rollout.response_mask) == len(rollout.log_probs or []) <= room
    wrote = [t for t, m in zip(rollout.response_ids, rollout.response_mask, strict=True) if m]
    if kept is not None:
        sampled = [token for turn in kept for token in coder.encode(turn, add_special_tokens=False)]
    assert wrote == sampled  # every sampled token is there, and no other has mask 1
    assert all(
        (p == -0.5) == bool(m) for p, m in zip(rollout.log_probs or [], rollout.response_mask, strict=True)
    )
    whole = prompt.token_ids + rollout.response_ids
    assert all(whole[: len(context)] == context for context in contexts)  # token in, token out
    assert len(rollout.queries) == len(rollout.spans)
    assert [s.query for s in rollout.searches] == rollout.queries[: len(rollout.searches)]
    spans = [span for span in rollout.spans if span[0] < span[1]]
    if not rollout.malformed["unlocated"] + rollout.malformed["unknown_tool"]:
        assert spans == query_spans(rollout.response_ids, coder, protocol, rollout.response_mask)
    assert set(spans) <= set(rollout.argument_spans)
    return rollout


def environment(rollout: Rollout, coder: Any) -> str:
    pairs = zip(rollout.response_ids, rollout.response_mask, strict=True)
    return decode([token for token, mask in pairs if not mask], coder)
