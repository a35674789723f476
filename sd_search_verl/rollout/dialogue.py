"""The two sides of a rollout in tokens: a turn is read from what was sampled, an observation is encoded to follow it.

Tags are read and encoded here. Tool calls need verl's parsers and token builders: ``verl_adapter/tool_dialogue.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sd_search_verl.config import SearchConfig
from sd_search_verl.protocol import get
from sd_search_verl.protocol.base import SEARCH, Protocol
from sd_search_verl.protocol.spans import Span, locate_calls
from sd_search_verl.protocol.tags import TagProtocol
from sd_search_verl.protocol.token_bytes import decode, tokens_through
from sd_search_verl.protocol.tool_call import ToolCallProtocol
from sd_search_verl.protocol.tools import SCHEMAS
from sd_search_verl.rollout.observation import ObservationEncoder
from sd_search_verl.rollout.retriever_reply import SearchResult
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


Tool = Callable[[dict[str, Any]], Awaitable[str]]
"""Arguments -> what the policy reads; must not raise."""

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


class TagDialogue(Dialogue):
    """Searches and answers between tags."""

    malformed_kinds = ("empty_query", "unfinished", "no_action")
    tools: Mapping[str, Tool] = {}

    def __init__(self, tokenizer: Any, protocol: Protocol, max_observation_tokens: int) -> None:
        assert isinstance(protocol, TagProtocol), f"{protocol.name} needs verl's parser and token builder"
        self._tokenizer, self._protocol = tokenizer, protocol
        self._encoder = ObservationEncoder(tokenizer, protocol, max_observation_tokens)

    async def read(self, token_ids: Sequence[int]) -> SampledTurn:
        """Read the turn up to its first closing tag."""
        whole = decode(token_ids, self._tokenizer)
        text = next(self._protocol.turns(whole), "")
        turn, behind = self._protocol.read(text), whole[len(text) :]
        if not turn.calls:
            malformed = (turn.malformed,) if turn.malformed else ()
            return SampledTurn(text, answer=turn.answer, malformed=malformed, behind=behind)
        query = turn.calls[0].values[0].text(text).strip()
        # A lone byte that latin-1 takes for a space (0x85, 0xA0) is a query in the text and none in its bytes.
        call = next(locate_calls(token_ids, self._tokenizer, self._protocol, [1] * len(token_ids)), None)
        span = call.values[0].span if call is not None else (0, 0)
        request = Request(SEARCH, {"query": query}, ((query, span),), (span,))
        return SampledTurn(text, (request,), behind=behind)

    def rendered(self, found: SearchResult) -> str:
        """Return the documents without the tags."""
        return self._protocol.documents([document.contents for document in found.documents or []])

    def observation(
        self, prompt: Prompt, turn: SampledTurn, token_ids: Sequence[int], results: Sequence[Result]
    ) -> Observation:
        """Encode the documents between the tags of observations."""
        if not results:
            return Observation(self._encoder.invalid_action())
        found = results[0][0]
        assert isinstance(found, SearchResult)
        return Observation(*self._encoder.documents(found, written=turn.behind))


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
