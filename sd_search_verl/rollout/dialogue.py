"""The two sides of a rollout in tokens: a turn is read from what was sampled, an observation is encoded to follow it.

``tag_dialogue.py`` does it for tags; for tool calls, by verl's parsers and token builders,
``verl_adapter/rollout/tool_dialogue.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sd_search_verl.config import SearchConfig
from sd_search_verl.protocol import get
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.protocol.spans import Span
from sd_search_verl.protocol.token_bytes import tokens_through
from sd_search_verl.protocol.tool_call import ToolCallProtocol
from sd_search_verl.protocol.tools import SCHEMAS, Tool
from sd_search_verl.retriever_client.reply import SearchResult
from sd_search_verl.rollout.types import Prompt


@dataclass(frozen=True)
class Request:
    """A call to be executed.

    Attributes:
        queries: of a search, each with its span.
        spans: token ranges of all arguments, counted from the turn's first token.
        error: what the policy reads in place of a result when the call cannot be executed; else "".
    """

    tool: str
    arguments: dict[str, Any]
    queries: tuple[tuple[str, Span], ...] = ()
    spans: tuple[Span, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class SampledTurn:
    """What a turn asks for, or its answer.

    Attributes:
        text: as it was sampled.
        malformed: kinds of what is wrong with it.
        behind: text in its last token behind the closing tag.
    """

    text: str
    requests: tuple[Request, ...] = ()
    answer: str | None = None
    malformed: tuple[str, ...] = ()
    behind: str = ""


@dataclass(frozen=True)
class Observation:
    """Tokens of the environment after a turn; ``replaces`` is that of :meth:`Rollout.add_observation`."""

    token_ids: list[int]
    is_cut: bool = False
    replaces: int = 0


Result = Sequence[SearchResult] | str
"""What a call returns: the result of each query, or the text of another tool."""


class Dialogue(ABC):
    """How turns are read, tools called and observations encoded, for one model and protocol; it has no state."""

    malformed_kinds: tuple[str, ...]
    tools: Mapping[str, Tool]
    """Tools beside ``search``, by name."""
    _tokenizer: Any  # of the policy
    _protocol: Protocol

    def turn_length(self, token_ids: Sequence[int]) -> int:
        """Return the tokens up to the first text that ends a turn.

        An engine that was interrupted within such a text searches only what comes after it, and runs past.
        """
        stop = self._protocol.stop
        return tokens_through(token_ids, self._tokenizer, stop) if stop else len(token_ids)

    @abstractmethod
    async def read(self, token_ids: Sequence[int]) -> SampledTurn:
        """Read a turn."""

    @abstractmethod
    def rendered(self, found: SearchResult) -> str:
        """Return the documents as the policy reads them, an empty text where there is none."""

    @abstractmethod
    def observation(
        self, prompt: Prompt, turn: SampledTurn, token_ids: Sequence[int], results: Sequence[Result]
    ) -> Observation:
        """Encode the results of a turn's requests, or the notice that it asks for nothing and answers nothing.

        Args:
            prompt: of the rollout.
            turn: as :meth:`read` returned it.
            token_ids: of the turn.
            results: one for each request.
        """


def protocol_of(config: SearchConfig) -> Protocol:
    """Return the protocol that a config names, with the tools and the place of the answer that it sets.

    Raises:
        UserError: the family of tool calls is unknown.
    """
    options = config.tool_call
    found = get(f"tool_call:{options.family}" if config.protocol == "tool_call" else config.protocol)
    if isinstance(found, ToolCallProtocol):
        tools = tuple(map(SCHEMAS.__getitem__, options.tools))
        return replace(found, tools=tools, answer_in=options.answer, parallel=options.parallel)
    return found
