"""One rollout: the prompt, the tokens sampled from it, the searches made on the way, and the scored answer.

The agent loop fills it, hindsight and the metrics read it, evaluation and the traces write it to files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sd_search_verl import scoring
from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.protocol.spans import Span
from sd_search_verl.protocol.token_bytes import decode

Status = Literal["answered", "no_answer", "turn_limit", "context_overflow"]


@dataclass(frozen=True)
class Prompt:
    """A question as the policy reads it.

    Attributes:
        group: identifies the question; rollouts of one question share it.
        messages: the chat messages.
        token_ids: the messages encoded, without the tokens cut from their start.
        golden_answers: empty where none is known; then every score is 0.
        num_cut: tokens cut from the start because the prompt was longer than the limit.
    """

    group: str
    messages: Messages
    token_ids: list[int]
    golden_answers: Sequence[str] = ()
    num_cut: int = 0

    @classmethod
    def encode(
        cls,
        group: str,
        messages: Messages,
        golden_answers: Sequence[str],
        tokenizer: Any,
        template_kwargs: Mapping[str, Any],
        max_tokens: int,
    ) -> Prompt:
        """Encode chat messages and keep their last ``max_tokens`` tokens."""
        token_ids = encode_messages(messages, tokenizer, template_kwargs)
        kept = token_ids[-max_tokens:]
        return cls(group, messages, kept, golden_answers, len(token_ids) - len(kept))


@dataclass(frozen=True)
class Search:
    """One executed query.

    Attributes:
        documents: the documents rendered as the policy reads them; empty when nothing was found or search failed.
        error: why search failed; None when it did not.
        has_gold: whether a golden answer stands in the documents.
    """

    query: str
    documents: str
    latency_s: float
    error: str | None
    has_gold: bool


@dataclass
class Rollout:
    """One rollout. ``response_ids``, ``response_mask`` and ``log_probs`` always have equal length.

    Attributes:
        response_ids: tokens after the prompt, of the policy and of observations.
        response_mask: 1 for tokens of the policy, 0 for observations.
        log_probs: of the policy's tokens when they were sampled, 0.0 for observations; None where not asked for.
        queries: issued queries in order; the last one is not executed when ``status`` is turn_limit.
        spans: half-open range of the query tokens of each query, in ``response_ids``; may be empty.
        argument_spans: the same of every argument of every tool call, queries included; empty ones are left out.
        searches: executed queries, ``searches[i]`` answering ``queries[i]``.
        status: how it ended. answered; no_answer: the last turn had neither search nor answer; turn_limit: it still
            wanted to search; context_overflow: no room for a further observation or turn.
        turns: turns of the policy.
        malformed: turns without a valid action and calls that cannot be executed, by kind.
        truncated_observations: observations cut to ``max_observation_tokens``.
        response: the response as text.
        em, f1, cover_em: scores of ``answer``, set by :meth:`finish`.
        reward: of the training; None where no reward function scored the rollout.
        versions: (start, version): the policy's tokens from index ``start`` of the response to the next entry were
            sampled by weights of this version, which is the training step that made them. Empty if not known.
    """

    prompt: Prompt
    response_ids: list[int] = field(default_factory=list)
    response_mask: list[int] = field(default_factory=list)
    log_probs: list[float] | None = None
    queries: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    argument_spans: list[Span] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    answer: str | None = None
    status: Status = "no_answer"
    turns: int = 0
    malformed: dict[str, int] = field(
        default_factory=lambda: {"empty_query": 0, "unfinished": 0, "no_action": 0}
    )
    truncated_observations: int = 0
    response: str = ""
    em: float = 0.0
    f1: float = 0.0
    cover_em: float = 0.0
    reward: float | None = None
    versions: list[tuple[int, int]] = field(default_factory=list)

    def add_turn(
        self,
        token_ids: Sequence[int],
        log_probs: Sequence[float] | None,
        versions: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Append a turn of the policy, with the sampling log-prob of each token or None.

        Args:
            versions: (number of tokens, version of the weights that sampled them), in order; empty if not known.

        Raises:
            RuntimeError: the number of log-probs does not fit, or only some turns have them.
        """
        if log_probs is not None and len(log_probs) != len(token_ids):
            raise RuntimeError(
                f"the rollout engine returned {len(log_probs)} log-probs for {len(token_ids)} tokens"
            )
        if self.turns == 0:
            self.log_probs = None if log_probs is None else []
        if (self.log_probs is None) != (log_probs is None):
            raise RuntimeError("the rollout engine returned log-probs for some turns only")
        start = len(self.response_ids)
        for count, version in versions:
            if count and (not self.versions or self.versions[-1][1] != version):
                self.versions.append((start, version))
            start += count
        self.response_ids += token_ids
        self.response_mask += [1] * len(token_ids)
        if self.log_probs is not None and log_probs is not None:
            self.log_probs += log_probs
        self.turns += 1

    def add_queries(
        self, queries: Sequence[tuple[str, Span]], arguments: Sequence[Span], turn_tokens: int
    ) -> None:
        """Record the queries of the last turn and the spans of its calls' arguments, counted from its first token.

        A query without a token strictly inside has an empty span: it is real, but has no token to learn at.
        """
        start = len(self.response_ids) - turn_tokens
        for query, (first, last) in queries:
            self.queries.append(query)
            self.spans.append((start + first, start + last))
        self.argument_spans += [(start + first, start + last) for first, last in arguments if first < last]

    def add_search(
        self, documents: Sequence[str], rendered: str, latency_s: float, error: str | None
    ) -> None:
        """Record the search for the first query without one: passages found, and their text as the policy reads it."""
        query = self.queries[len(self.searches)]
        has_gold = scoring.contains_answer(documents, self.prompt.golden_answers)
        self.searches.append(Search(query, rendered, latency_s, error, has_gold))

    def add_observation(self, token_ids: Sequence[int], replaces: int = 0) -> None:
        """Append tokens of the environment; they carry no log-prob and no loss.

        Args:
            replaces: sampled tokens at the end of the turn that the environment writes in their place: a template may
                begin its message with the very token at which the turn was stopped.
        """
        keep = len(self.response_ids) - replaces
        del self.response_ids[keep:], self.response_mask[keep:]
        if self.log_probs is not None:
            del self.log_probs[keep:]
        self.response_ids += token_ids
        self.response_mask += [0] * len(token_ids)
        if self.log_probs is not None:
            self.log_probs += [0.0] * len(token_ids)

    def finish(self, tokenizer: Any) -> Rollout:
        """Decode the response and score the answer; returns the rollout."""
        golden = self.prompt.golden_answers
        self.response = decode(self.response_ids, tokenizer)
        self.em = scoring.exact_match(self.answer, golden)
        self.f1 = scoring.token_f1(self.answer, golden)
        self.cover_em = scoring.cover_exact_match(self.answer, golden)
        return self
