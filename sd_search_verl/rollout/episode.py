"""The agent loop: one rollout of one question, token ids in and token ids out.

The policy's tokens are kept exactly as they were sampled, and observations are encoded once and appended. Nothing is
ever decoded and encoded again, so the log-probs belong to the very tokens the trainer sees. How tokens are generated
and how documents are found are passed in, so training and evaluation run this same code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sd_search_verl.config import SearchConfig
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.protocol.spans import Span, query_spans, token_bytes
from sd_search_verl.rollout.retriever import SearchResult

Status = Literal["answered", "no_answer", "turn_limit", "context_overflow"]


@dataclass(frozen=True)
class Generation:
    """Tokens of one turn, with the sampling log-prob of each, or None where they are not asked for."""

    token_ids: list[int]
    log_probs: list[float] | None


@dataclass(frozen=True)
class Search:
    """One executed query. ``documents`` is empty when nothing was found or search was unavailable."""

    query: str
    documents: list[str]
    latency_s: float
    error: str | None


@dataclass
class Episode:
    """A finished rollout. ``response_ids``, ``response_mask`` and ``log_probs`` always have equal length.

    Attributes:
        response_mask: 1 for tokens of the policy, 0 for observations.
        queries: issued queries in order; the last one is not executed when ``status`` is turn_limit.
        spans: half-open range of the query tokens of each query, in ``response_ids``; may be empty.
        searches: executed queries, ``searches[i]`` answering ``queries[i]``.
        status: how it ended. answered; no_answer: the last turn had neither search nor answer; turn_limit: it still
            wanted to search; context_overflow: no room for a further observation or turn.
        malformed: turns without a valid action, by kind.
        truncated_observations: observations cut to ``max_observation_tokens``.
    """

    response_ids: list[int] = field(default_factory=list)
    response_mask: list[int] = field(default_factory=list)
    log_probs: list[float] | None = None
    queries: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    answer: str | None = None
    status: Status = "no_answer"
    malformed: dict[str, int] = field(
        default_factory=lambda: {"empty_query": 0, "unfinished": 0, "no_action": 0}
    )
    truncated_observations: int = 0
    turns: int = 0

    def add_generation(self, generation: Generation) -> None:
        """Append a turn of the policy."""
        count = len(generation.token_ids)
        if generation.log_probs is not None and len(generation.log_probs) != count:
            raise RuntimeError(
                f"the rollout engine returned {len(generation.log_probs)} log-probs for {count} tokens"
            )
        if self.turns == 0:
            self.log_probs = None if generation.log_probs is None else []
        if (self.log_probs is None) != (generation.log_probs is None):
            raise RuntimeError("the rollout engine returned log-probs for some turns only")
        self.response_ids += generation.token_ids
        self.response_mask += [1] * count
        if self.log_probs is not None and generation.log_probs is not None:
            self.log_probs += generation.log_probs
        self.turns += 1

    def add_query(self, query: str, spans: list[Span], turn_tokens: int) -> None:
        """Record the query of the turn just added; ``spans`` count from that turn's first token."""
        start = len(self.response_ids) - turn_tokens
        # No token strictly inside the tags: the query is real, but has no token to learn at.
        first, last = spans[0] if spans else (0, 0)
        self.queries.append(query)
        self.spans.append((start + first, start + last))

    def add_observation(self, token_ids: list[int]) -> None:
        """Append tokens of the environment; they carry no log-prob and no loss."""
        self.response_ids += token_ids
        self.response_mask += [0] * len(token_ids)
        if self.log_probs is not None:
            self.log_probs += [0.0] * len(token_ids)


async def run_episode(
    prompt_ids: Sequence[int],
    generate: Callable[[list[int], int], Awaitable[Generation]],
    search: Callable[[str], Awaitable[SearchResult]],
    tokenizer: Any,
    protocol: Protocol,
    config: SearchConfig,
    max_response_tokens: int,
) -> Episode:
    """Alternate turns of the policy and observations until an answer, a limit or the end of the context.

    Args:
        prompt_ids: the prompt, never changed.
        generate: ``(context token ids, max tokens) -> Generation``, stopping after ``protocol.stop`` strings.
        search: ``query -> SearchResult``; must not raise.
        tokenizer: of the policy.
        protocol: tags and observation text.
        config: limits.
        max_response_tokens: room for everything after the prompt.
    """
    episode = Episode()
    encoder = ObservationEncoder(tokenizer, protocol, config.max_observation_tokens)
    for turn_number in range(config.max_turns + 1):
        room = max_response_tokens - len(episode.response_ids)
        if room < 1:
            episode.status = "context_overflow"
            break
        budget = min(config.max_turn_tokens, room)
        generation = await generate([*prompt_ids, *episode.response_ids], budget)
        episode.add_generation(generation)
        text = b"".join(token_bytes(generation.token_ids, tokenizer)).decode("utf-8", errors="replace")
        turn = next(protocol.turns(text), "")

        query, answer = protocol.query(turn), protocol.answer(turn)
        if query is not None:
            episode.add_query(
                query,
                query_spans(generation.token_ids, tokenizer, protocol, [1] * len(generation.token_ids)),
                len(generation.token_ids),
            )
        if query is None and answer is not None:
            episode.answer, episode.status = answer, "answered"
            break
        if query is None:
            episode.malformed[_kind_of_malformed(turn, protocol)] += 1
        last_turn = turn_number == config.max_turns
        if last_turn:
            episode.status = "no_answer" if query is None else "turn_limit"
            break

        if query is None:
            observation, truncated = encoder.notice(), False
        else:
            found = await search(query)
            episode.searches.append(_record(query, found))
            observation, truncated = encoder.documents(found, written=text[len(turn) :])
        # An observation the policy could not react to would only pad the trajectory.
        if len(episode.response_ids) + len(observation) >= max_response_tokens:
            episode.status = "context_overflow"
            break
        episode.add_observation(observation)
        episode.truncated_observations += truncated
    return episode


class ObservationEncoder:
    """Encodes observations, within a limit of tokens."""

    def __init__(self, tokenizer: Any, protocol: Protocol, max_tokens: int) -> None:
        self._tokenizer, self._protocol, self._max_tokens = tokenizer, protocol, max_tokens

    def notice(self) -> list[int]:
        """The environment's words after a turn without a valid action."""
        return self._encode(self._protocol.invalid_action)

    def documents(self, result: SearchResult, written: str = "") -> tuple[list[int], bool]:
        """Token ids of the observation that answers a search, and whether it had to be cut.

        It is cut as Search-R1 and AutoRefine cut it, at the end of its tokens: the closing tag goes first.

        Args:
            result: of the search.
            written: what the policy's last token wrote after its closing tag. Qwen has a token ``>`` with two line
                ends, and the observation begins with two: released models never saw four.
        """
        observation = self._protocol.observation(self._text(result))
        whole = self._encode(observation.removeprefix(written))
        return whole[: self._max_tokens], len(whole) > self._max_tokens

    def _text(self, result: SearchResult) -> str:
        if result.documents is None:
            return self._protocol.unavailable
        if not result.documents:
            return self._protocol.no_results
        return self._protocol.documents([document.contents for document in result.documents])

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def _kind_of_malformed(turn: str, protocol: Protocol) -> str:
    if protocol.search_open not in turn:
        return "no_action"
    return "empty_query" if turn.endswith(protocol.search_close) else "unfinished"


def _record(query: str, found: SearchResult) -> Search:
    documents = [document.contents for document in found.documents or []]
    return Search(query, documents, found.latency_s, found.error)
