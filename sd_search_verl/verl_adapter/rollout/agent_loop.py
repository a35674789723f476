"""``sd_search_agent``: the agent loop as a verl agent loop, on its vLLM server and data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import (
    AgentLoopBase,
    AgentLoopMetrics,
    AgentLoopOutput,
    ToolListWrap,
)

from sd_search_verl import scoring
from sd_search_verl.config import SearchConfig
from sd_search_verl.errors import UserError
from sd_search_verl.protocol.prompt import text_messages
from sd_search_verl.protocol.tool_call import ToolCallProtocol
from sd_search_verl.retriever_client.client import RetrieverClient
from sd_search_verl.rollout.loop import Generation, run_rollout, stop_params
from sd_search_verl.rollout.record import ROLLOUT_KEY, to_plain
from sd_search_verl.rollout.types import Prompt
from sd_search_verl.verl_adapter.rollout.server_client import ATTEMPTS
from sd_search_verl.verl_adapter.rollout.tool_dialogue import ToolDialogue
from sd_search_verl.verl_adapter.rollout.tools import callable_tools, run_protocol, template_kwargs
from sd_search_verl.verl_adapter.settings import read_search

_client = cache(RetrieverClient)


def shared_client(config: SearchConfig) -> RetrieverClient:
    """Return this process's client for the configured retrievers; verl makes a loop per rollout, so it is shared."""
    return _client(tuple(config.retriever_urls), config.top_k, config.timeout_s, config.max_retries)


class SearchAgentLoop(AgentLoopBase):
    """One rollout of one question.

    Args:
        tools: those of verl's ``multi_turn`` options.
        **options: of verl's base class.
    """

    def __init__(self, *arguments: Any, tools: ToolListWrap | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._tools = tools.tools if tools else []
        self._model_type = options.get("hf_model_type")

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Run the rollout.

        Args:
            sampling_params: of the rollout engine; shared between rollouts and not changed.
            **kwargs: the data set's columns; ``raw_prompt`` (messages) and ``reward_model.ground_truth`` are used.

        Returns:
            verl's output, with the rollout as plain Python values in ``extra_fields["sd_search"]``.
        """
        search = read_search(self.config)
        protocol = run_protocol(search, self._tools)
        options = template_kwargs(self.data_config, protocol)
        prompt = Prompt.encode(
            group=str(kwargs["uid"]),
            messages=text_messages(kwargs["raw_prompt"]),
            golden_answers=_golden_answers(kwargs),
            tokenizer=self.tokenizer,
            template_kwargs=options,
            max_tokens=self.rollout_config.prompt_length,
        )
        room = self.rollout_config.response_length
        if self.rollout_config.max_model_len:
            room = min(room, self.rollout_config.max_model_len - len(prompt.token_ids))

        # One id for all turns sends them to one server, which has their prefix cached.
        request_id = uuid4().hex
        turns = 0
        stop = stop_params(protocol, self.tokenizer)

        async def generate(context: list[int], max_tokens: int) -> Generation:
            nonlocal turns
            params = {**sampling_params, "max_tokens": max_tokens, **stop}
            if search.sampling_seed is not None:
                place = (kwargs["global_steps"], kwargs["session_id"], turns)
                params["seed"] = request_seed(search.sampling_seed, *place, prompt.token_ids)
            output = await self.server_manager.generate(
                request_id=request_id, prompt_ids=context, sampling_params=params
            )
            turns += 1
            whole = [(len(output.token_ids), output.extra_fields.get("global_steps"))]
            attempts = output.extra_fields.get(ATTEMPTS, whole)
            versions = [] if any(version is None for _, version in attempts) else attempts
            # An aborted request has neither tokens nor log-probs; where log-probs are wanted, none is an empty list.
            wanted = bool(sampling_params.get("logprobs"))
            log_probs = list(output.log_probs or []) if wanted else None
            return Generation(list(output.token_ids), log_probs, versions)

        client = shared_client(search)
        dialogue = None
        if isinstance(protocol, ToolCallProtocol):
            tools = {**client.tools, **callable_tools(self._tools, kwargs.get("tools_kwargs") or {})}
            limit = search.max_observation_tokens
            dialogue = ToolDialogue(self.tokenizer, protocol, self._model_type, options, limit, tools)
        rollout = await run_rollout(
            prompt, generate, client.search, self.tokenizer, protocol, search, room, dialogue
        )
        known = [version for _, version in rollout.versions]
        return AgentLoopOutput(
            prompt_ids=prompt.token_ids,
            response_ids=rollout.response_ids,
            response_mask=rollout.response_mask,
            response_logprobs=rollout.log_probs,
            num_turns=2 * rollout.turns,
            metrics=AgentLoopMetrics(),
            extra_fields={
                ROLLOUT_KEY: to_plain(rollout),
                # verl reports how stale a rollout is from these.
                "min_global_steps": min(known, default=None),
                "max_global_steps": max(known, default=None),
            },
        )


def _golden_answers(row: Mapping[str, Any]) -> list[str]:
    """Return the golden answers of a data set's row, or name the row that has none."""
    try:
        return scoring.golden_answers((row.get("reward_model") or {}).get("ground_truth"))
    except UserError as error:
        where = f"data_source={row.get('data_source')!r}, extra_info.index={row.get('index')}"
        raise UserError(f"the row with {where} cannot be scored: {error}") from error


def request_seed(seed: int, step: int, session: int, turn: int, prompt_ids: list[int]) -> int:
    """Return the seed of one turn's sampling, below 2^56; it depends on the arguments only."""
    text = repr((seed, step, session, turn, prompt_ids))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
