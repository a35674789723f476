"""verl's agent loops on a server whose turns are given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap

from support.chat_templates import MODEL_TYPES
from support.tool_rollouts import QUESTION


class Server:
    """Stands for the rollout engine: the same tokens for whoever asks."""

    def __init__(self, turns: Sequence[list[int]]) -> None:
        self._turns = iter(turns)
        self.prompts: list[list[int]] = []

    async def generate(self, *, prompt_ids: list[int], **_: Any) -> Any:
        self.prompts.append(list(prompt_ids))
        ids = next(self._turns)
        return SimpleNamespace(
            token_ids=ids,
            log_probs=[-0.25] * len(ids),
            extra_fields={},
            num_preempted=None,
            routed_experts=None,
        )


def run_agent_loop(
    cls: Any, config: Any, coder: Any, family: str, turns: Sequence[list[int]], tools: Sequence[Any] = ()
) -> tuple[Any, Server]:
    """Return the output of one rollout of verl's or our agent loop, and the server that it asked."""
    server = Server(turns)

    async def run() -> Any:
        loop = cls(
            trainer_config=DictConfigWrap(config),
            server_manager=server,
            tokenizer=coder,
            processor=None,
            dataset_cls=None,
            data_config=DictConfigWrap(config.data),
            hf_model_type=MODEL_TYPES[family],
            tools=ToolListWrap(list(tools)),
        )
        truth = {"ground_truth": {"target": ["me"]}}
        row = {"uid": "u", "session_id": 0, "global_steps": 1, "reward_model": truth}
        return await loop.run({"logprobs": True}, raw_prompt=QUESTION, **row)

    return asyncio.run(run()), server
