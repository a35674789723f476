"""The agent loop: one rollout of one question, token ids in and token ids out.

The policy's tokens are kept exactly as they were sampled, and observations are encoded once and appended. Nothing is
ever decoded and encoded again, so the log-probs belong to the very tokens the trainer sees. The functions that
generate tokens and find documents are arguments, so training and evaluation run this same code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sd_search_verl.config import SearchConfig
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.protocol.token_bytes import decode, tokens_through
from sd_search_verl.rollout.observation import ObservationEncoder
from sd_search_verl.rollout.retriever import SearchResult
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


def stop_params(protocol: Protocol) -> dict[str, Any]:
    """Return vLLM's sampling parameters that end a turn after a closing tag.

    vLLM searches for stop strings in the text it decodes, which by default lacks special tokens, and a tag may be one.
    """
    return {"stop": protocol.stop, "include_stop_str_in_output": True, "skip_special_tokens": False}


async def run_rollout(
    prompt: Prompt,
    generate: Callable[[list[int], int], Awaitable[Generation]],
    search: Callable[[str], Awaitable[SearchResult]],
    tokenizer: Any,
    protocol: Protocol,
    config: SearchConfig,
    max_response_tokens: int,
) -> Rollout:
    """Alternate turns of the policy and observations until an answer, a limit or the end of the context.

    Args:
        prompt: the question, encoded.
        generate: ``(context token ids, max tokens) -> Generation``, sampled with :func:`stop_params`.
        search: ``query -> SearchResult``; must not raise.
        tokenizer: of the policy.
        protocol: tags and observation text.
        config: limits.
        max_response_tokens: room for everything after the prompt.
    """
    rollout = Rollout(prompt)
    encoder = ObservationEncoder(tokenizer, protocol, config.max_observation_tokens)
    for turn_number in range(config.max_turns + 1):
        room = max_response_tokens - len(rollout.response_ids)
        if room < 1:
            rollout.status = "context_overflow"
            break
        context = [*prompt.token_ids, *rollout.response_ids]
        generation = await generate(context, min(config.max_turn_tokens, room))
        # An engine that was interrupted within a closing tag searches only the text after it, and runs past the tag.
        generation = generation.first(tokens_through(generation.token_ids, tokenizer, protocol.stop))
        token_ids = generation.token_ids
        rollout.add_turn(token_ids, generation.log_probs, generation.versions)
        text = decode(token_ids, tokenizer)
        turn = next(protocol.turns(text), "")

        query, answer = protocol.query(turn), protocol.answer(turn)
        if query is not None:
            spans = query_spans(token_ids, tokenizer, protocol, [1] * len(token_ids))
            rollout.add_query(query, spans, len(token_ids))
        elif answer is not None:
            rollout.answer, rollout.status = answer, "answered"
            break
        else:
            rollout.malformed[_malformed_kind(turn, protocol)] += 1
        if turn_number == config.max_turns:
            rollout.status = "no_answer" if query is None else "turn_limit"
            break

        if query is None:
            observation, truncated = encoder.invalid_action(), False
        else:
            found = await search(query)
            documents = [document.contents for document in found.documents or []]
            rollout.add_search(documents, protocol.documents(documents), found.latency_s, found.error)
            observation, truncated = encoder.documents(found, written=text[len(turn) :])
        # An observation the policy could not react to would only pad the rollout.
        if len(rollout.response_ids) + len(observation) >= max_response_tokens:
            rollout.status = "context_overflow"
            break
        rollout.add_observation(observation)
        rollout.truncated_observations += truncated
    return rollout.finish(tokenizer)


def _malformed_kind(turn: str, protocol: Protocol) -> str:
    if protocol.search_open not in turn:
        return "no_action"
    return "empty_query" if turn.endswith(protocol.search_close) else "unfinished"
