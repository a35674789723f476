"""Turns and observations between tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sd_search_verl.protocol.base import SEARCH, Protocol
from sd_search_verl.protocol.spans import locate_calls
from sd_search_verl.protocol.tags import TagProtocol
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.protocol.tools import Tool
from sd_search_verl.retriever_client.reply import SearchResult
from sd_search_verl.rollout.dialogue import Dialogue, Observation, Request, Result, SampledTurn
from sd_search_verl.rollout.observation import ObservationEncoder
from sd_search_verl.rollout.types import Prompt


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
