"""Encode observations: the text that the environment appends to a rollout after a turn."""

from __future__ import annotations

from typing import Any

from sd_search_verl.protocol.base import Protocol
from sd_search_verl.rollout.retriever import SearchResult


class ObservationEncoder:
    """Encodes observations within a limit of tokens.

    Args:
        tokenizer: of the policy.
        protocol: tags and texts of the observations.
        max_tokens: limit of an observation with documents.
    """

    def __init__(self, tokenizer: Any, protocol: Protocol, max_tokens: int) -> None:
        self._tokenizer, self._protocol, self._max_tokens = tokenizer, protocol, max_tokens

    def invalid_action(self) -> list[int]:
        """Return the observation after a turn without a valid action."""
        return self._encode(self._protocol.invalid_action)

    def documents(self, result: SearchResult, written: str = "") -> tuple[list[int], bool]:
        """Return the observation after a search, and whether it was cut.

        It is cut as Search-R1 and AutoRefine cut it, at the end of its tokens: the closing tag goes first.

        Args:
            result: of the search.
            written: text of the policy's last token after its closing tag. Qwen has a token ``>`` with two line ends,
                and the observation begins with two: released models never saw four.
        """
        observation = self._protocol.observation(self._text(result))
        token_ids = self._encode(observation.removeprefix(written))
        return token_ids[: self._max_tokens], len(token_ids) > self._max_tokens

    def _text(self, result: SearchResult) -> str:
        if result.documents is None:
            return self._protocol.unavailable
        if not result.documents:
            return self._protocol.no_results
        return self._protocol.documents([document.contents for document in result.documents])

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))
