"""Encode observations: the text that the environment appends to a rollout after a turn."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from sd_search_verl.protocol.control_tokens import encode_marked, mark
from sd_search_verl.protocol.tags import TagProtocol
from sd_search_verl.retriever_client.reply import SearchResult

_LONGEST: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def enough_text(text: str, max_tokens: int, tokenizer: Any) -> str:
    """Return the beginning of a text, in which its first ``max_tokens`` tokens and more lie.

    Encoding a document of megabytes would hold up all rollouts of a process.
    """
    if tokenizer not in _LONGEST:
        _LONGEST[tokenizer] = max(map(len, tokenizer.get_vocab()))
    return text[: (max_tokens + 2) * _LONGEST[tokenizer]]


class ObservationEncoder:
    """Encodes observations within a limit of tokens.

    Args:
        tokenizer: of the policy.
        protocol: tags and texts of the observations.
        max_tokens: limit of an observation with documents.
    """

    def __init__(self, tokenizer: Any, protocol: TagProtocol, max_tokens: int) -> None:
        self._tokenizer, self._protocol, self._max_tokens = tokenizer, protocol, max_tokens

    def invalid_action(self) -> list[int]:
        """Return the observation after a turn without a valid action."""
        return list(self._tokenizer.encode(self._protocol.invalid_action, add_special_tokens=False))

    def documents(self, result: SearchResult, written: str = "") -> tuple[list[int], bool]:
        """Return the observation after a search, and whether it was cut.

        It is cut as Search-R1 and AutoRefine cut it, at the end of its tokens: the closing tag goes first. Control
        tokens that a document spells stay text.

        Args:
            result: of the search.
            written: text of the policy's last token after its closing tag. Qwen has a token ``>`` with two line ends,
                and the observation begins with two: released models never saw four.
        """
        contents = [document.contents for document in result.documents or []]
        contents, character = mark(contents, self._tokenizer)
        whole = self._protocol.observation(self._text(result.documents is None, contents)).removeprefix(
            written
        )
        text = enough_text(whole, self._max_tokens, self._tokenizer)
        token_ids = encode_marked(text, character, self._tokenizer)
        return token_ids[: self._max_tokens], len(token_ids) > self._max_tokens or text != whole

    def _text(self, failed: bool, contents: list[str]) -> str:
        if failed:
            return self._protocol.unavailable
        return self._protocol.documents(contents) if contents else self._protocol.no_results
