"""Parity with verl's own tool agent: the same sampled tokens make the same rollout."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.agent_loops import run_agent_loop
from support.chat_templates import chat_tokenizer
from support.engine import compose
from support.tool_calls import call
from support.tool_rollouts import QUESTION, ended, found
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import OpenAIFunctionToolSchema

from sd_search_verl.protocol.families import FAMILIES
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.protocol.tools import SCHEMAS
from sd_search_verl.verl_adapter.rollout import agent_loop


@pytest.mark.parametrize("family", FAMILIES)
def test_verls_tool_agent_makes_the_same_tokens(
    family: str, tmp_path: Path, qwen_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token ids, mask and log-probs of the same sampled tokens are equal."""
    coder = chat_tokenizer(qwen_tokenizer, family)
    both = call(family, "who?") if family == "gemma4" else f"{call(family, 'who?')}\n{call(family, 'é 東京')}"
    texts = [
        f"<think>\nhm\n</think>\n\n{both}",
        f"more {call(family, 'x', tool='browse')}",
        call(family, "Hattusa"),
        "<answer> me </answer>",
    ]
    turns = [coder.encode(ended(family, text), add_special_tokens=False) for text in texts]
    config = compose(
        tmp_path,
        [
            "search.protocol=tool_call",
            f"search.tool_call.family={family}",
            f"actor_rollout_ref.rollout.multi_turn.format={family}",
            "actor_rollout_ref.rollout.multi_turn.max_parallel_calls=4",
            "actor_rollout_ref.rollout.multi_turn.max_tool_response_length=100000",
            "data.max_prompt_length=1000",
            "data.max_response_length=1000",
        ],
    )

    async def look(query: str) -> str:
        return f"Doc 1(Title: Title) about {query}"

    schema = OpenAIFunctionToolSchema.model_validate(SCHEMAS["search"])
    tool = FunctionTool("search", look, schema, is_async=True)
    monkeypatch.setattr(agent_loop, "shared_client", lambda _: SimpleNamespace(search=found, tools={}))

    theirs, asked = run_agent_loop(ToolAgentLoop, config, coder, family, turns, [tool])
    ours, asked_too = run_agent_loop(agent_loop.SearchAgentLoop, config, coder, family, turns)
    assert asked.prompts == asked_too.prompts
    assert (
        ours.prompt_ids
        == theirs.prompt_ids
        == encode_messages(QUESTION, coder, {"tools": [SCHEMAS["search"]]})
    )
    assert ours.response_ids == theirs.response_ids
    assert ours.response_mask == theirs.response_mask
    assert ours.response_logprobs == theirs.response_logprobs
    assert sum(ours.response_mask) == sum(map(len, turns))
