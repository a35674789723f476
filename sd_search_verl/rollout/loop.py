"""The agent loop: one rollout of one question, token ids in and token ids out.

The policy's tokens are kept exactly as they were sampled, and observations are encoded once and appended. Nothing is
ever decoded and encoded again, so the log-probs belong to the very tokens the trainer sees. The functions that
generate tokens and find documents are arguments, so training and evaluation run this same code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sd_search_verl.config import SearchConfig
from sd_search_verl.protocol.base import SEARCH, Protocol
from sd_search_verl.protocol.tool_call import ToolCallProtocol
from sd_search_verl.retriever_client.reply import SearchFunction
from sd_search_verl.rollout.dialogue import Dialogue, Request, Result
from sd_search_verl.rollout.tag_dialogue import TagDialogue
from sd_search_verl.rollout.types import Prompt, Rollout


@dataclass(frozen=True)
class Generation:
    """Tokens of one turn.

    Attributes:
        log_probs: sampling log-prob of each token, or None where they are not asked for.
        versions: (number of tokens, version of the weights that sampled them), in order; empty if not known. More than
            one where generation was interrupted and resumed under newer weights.
    """

    token_ids: list[int]
    log_probs: list[float] | None
    versions: Sequence[tuple[int, int]] = ()

    def first(self, count: int) -> Generation:
        """Return the first ``count`` tokens."""
        versions, left = [], count
        for size, version in self.versions:
            versions.append((min(size, left), version))
            left -= versions[-1][0]
        log_probs = None if self.log_probs is None else self.log_probs[:count]
        return Generation(self.token_ids[:count], log_probs, versions)


def stop_params(protocol: Protocol, tokenizer: Any) -> dict[str, Any]:
    """Return vLLM's sampling parameters that end a turn, after a text that closes it or at an end-of-turn token.

    vLLM searches for stop strings in the text it decodes, which by default lacks special tokens, and a tag may be one.
    """
    params: dict[str, Any] = {}
    if protocol.stop:
        params = {"stop": protocol.stop, "include_stop_str_in_output": True, "skip_special_tokens": False}
    if isinstance(protocol, ToolCallProtocol):
        params["stop_token_ids"] = protocol.end_ids(tokenizer)
    return params


async def run_rollout(
    prompt: Prompt,
    generate: Callable[[list[int], int], Awaitable[Generation]],
    search: SearchFunction,
    tokenizer: Any,
    protocol: Protocol,
    config: SearchConfig,
    max_response_tokens: int,
    dialogue: Dialogue | None = None,
) -> Rollout:
    """Alternate turns of the policy and observations until an answer, a limit or the end of the context.

    Args:
        prompt: the question, encoded.
        generate: ``(context token ids, max tokens) -> Generation``, sampled with :func:`stop_params`.
        search: ``query -> SearchResult``; must not raise.
        tokenizer: of the policy.
        protocol: how turns are read.
        config: limits.
        max_response_tokens: room for everything after the prompt.
        dialogue: of a protocol of tool calls; None for tags.
    """
    dialogue = dialogue or TagDialogue(tokenizer, protocol, config.max_observation_tokens)
    rollout = Rollout(prompt, malformed=dict.fromkeys(dialogue.malformed_kinds, 0))

    async def execute(request: Request) -> Result:
        if request.error:
            return request.error
        if request.tool == SEARCH:
            return await asyncio.gather(*(search(query) for query, _ in request.queries))
        return await dialogue.tools[request.tool](request.arguments)

    for turn_number in range(config.max_turns + 1):
        room = max_response_tokens - len(rollout.response_ids)
        if room < 1:
            rollout.status = "context_overflow"
            break
        context = [*prompt.token_ids, *rollout.response_ids]
        generation = await generate(context, min(config.max_turn_tokens, room))
        generation = generation.first(dialogue.turn_length(generation.token_ids))
        token_ids = generation.token_ids
        rollout.add_turn(token_ids, generation.log_probs, generation.versions)
        turn = await dialogue.read(token_ids)
        for kind in turn.malformed:
            rollout.malformed[kind] += 1
        for request in turn.requests:
            rollout.add_queries(request.queries, request.spans, len(token_ids))
        if turn.answer is not None:
            rollout.answer, rollout.status = turn.answer, "answered"
            break
        if turn_number == config.max_turns:
            rollout.status = "no_answer" if all(request.error for request in turn.requests) else "turn_limit"
            break

        results = await asyncio.gather(*map(execute, turn.requests))
        for found in (one for result in results if not isinstance(result, str) for one in result):
            contents = [document.contents for document in found.documents or []]
            rollout.add_search(contents, dialogue.rendered(found), found.latency_s, found.error)
        observation = dialogue.observation(prompt, turn, token_ids, results)
        # An observation the policy could not react to would only pad the rollout.
        if len(rollout.response_ids) + len(observation.token_ids) >= max_response_tokens:
            rollout.status = "context_overflow"
            break
        rollout.add_observation(observation.token_ids, observation.replaces)
        rollout.truncated_observations += observation.is_cut
    return rollout.finish(tokenizer)
