"""Tool calls in tokens: verl's tool parser reads a turn, verl's continuous-token builder encodes what follows it.

Sampled tokens are never encoded again. The builder adds the tool messages, or a notice, and the start of the next turn,
exactly as verl's own tool agent does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser
from verl.tools.schemas import OpenAIFunctionToolSchema

from sd_search_verl.errors import UserError
from sd_search_verl.protocol.base import QUERY_ARGUMENTS, SEARCH, Turn, decoded
from sd_search_verl.protocol.control_tokens import encode_text
from sd_search_verl.protocol.spans import LocatedCall, locate_calls
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.protocol.tool_call import ToolCallProtocol
from sd_search_verl.protocol.tools import READ, Tool
from sd_search_verl.retriever_client.reply import SearchResult
from sd_search_verl.rollout.dialogue import Dialogue, Observation, Request, Result, SampledTurn
from sd_search_verl.rollout.observation import enough_text
from sd_search_verl.rollout.types import Prompt
from sd_search_verl.verl_adapter.rollout.token_builder import context_builder

NO_QUERY = "search needs the argument query: a text that is not blank."
NO_OBJECT = "The arguments of a call must be an object."


class ToolDialogue(Dialogue):
    """Calls of tools, and tool messages.

    Args:
        tokenizer: of the policy, with its chat template.
        protocol: of one family.
        model_type: root ``model_type`` of the model's config, by which verl chooses its token builder.
        template_kwargs: further arguments of the chat template, the tools among them.
        max_observation_tokens: limit of the contents of a turn's tool messages, each of which gets an equal part.
        tools: those of the protocol beside ``search``.

    Raises:
        UserError: verl has no parser of the family's name, or no builder for this model.
    """

    malformed_kinds = (
        *("empty_query", "unfinished", "no_action"),
        *("bad_call", "unknown_tool", "bad_arguments", "unlocated"),
    )

    _protocol: ToolCallProtocol

    def __init__(
        self,
        tokenizer: Any,
        protocol: ToolCallProtocol,
        model_type: str | None,
        template_kwargs: Mapping[str, Any],
        max_observation_tokens: int,
        tools: Mapping[str, Tool],
    ) -> None:
        self.tools = tools
        self._tokenizer, self._protocol = tokenizer, protocol
        self._max_tokens = max_observation_tokens
        self._end_ids = protocol.end_ids(tokenizer)
        self._names = [tool["function"]["name"] for tool in protocol.tools]
        self._schemas = [OpenAIFunctionToolSchema.model_validate(tool) for tool in protocol.tools]
        try:
            self._parser = ToolParser.get_tool_parser(protocol.families[0].name, tokenizer)
            self._builder = context_builder(tokenizer, model_type, template_kwargs)
        except ValueError as error:
            raise UserError(
                f"search.tool_call.family={protocol.families[0].name} does not fit a {model_type} model: {error}. "
                "Fix: choose the family of the model's chat template"
            ) from error

    async def read(self, token_ids: Sequence[int]) -> SampledTurn:
        """Read the calls that verl's parser finds, or the answer of a turn without one."""
        text = decode(token_ids, self._tokenizer)
        _, calls = await self._parser.extract_tool_calls(list(token_ids), self._schemas)
        if not calls:
            turn = self._read_message(text, finished=self._has_end(token_ids) or self._is_stopped(text))
            return SampledTurn(
                text, answer=turn.answer, malformed=(turn.malformed,) if turn.malformed else ()
            )
        located: list[LocatedCall | None]
        located = list(locate_calls(token_ids, self._tokenizer, self._protocol, [1] * len(token_ids)))
        if [one.call.tool for one in located if one] != [call.name for call in calls]:
            located = [None] * len(calls)
        found = [self._request(call, place) for call, place in zip(calls, located, strict=True)]
        return SampledTurn(
            text,
            tuple(request for request, _ in found),
            malformed=tuple(kind for _, kinds in found for kind in kinds),
        )

    def rendered(self, found: SearchResult) -> str:
        """Return the documents, each with its id where the policy can read on in it."""
        documents = found.documents or []
        ids = [document.id for document in documents] if READ in self._names else []
        return self._protocol.documents([document.contents for document in documents], ids)

    def observation(
        self, prompt: Prompt, turn: SampledTurn, token_ids: Sequence[int], results: Sequence[Result]
    ) -> Observation:
        """Encode a tool message for each request, or the notice, and the start of the next turn."""
        contents = [
            enough_text(self._content(request, result), self._max_tokens, self._tokenizer)
            for request, result in zip(turn.requests, results, strict=True)
        ]
        observation = self._encoded(prompt, turn, token_ids, contents)
        limit = self._max_tokens // max(len(contents), 1)
        if len(observation.token_ids) <= limit:  # no content has more tokens than its message
            return observation
        cut = [self._cut(content, limit) for content in contents]
        if cut == contents:
            return observation
        return replace(self._encoded(prompt, turn, token_ids, cut), is_cut=True)

    def _encoded(
        self, prompt: Prompt, turn: SampledTurn, token_ids: Sequence[int], contents: Sequence[str]
    ) -> Observation:
        """Encode a tool message for each content, or the notice, and the start of the next turn."""
        calls = [
            {"type": "function", "function": {"name": one.tool, "arguments": one.arguments}}
            for one in turn.requests
        ]
        assistant = {"role": "assistant", "content": turn.text if not calls else "", "tool_calls": calls}
        messages = [
            {"role": "tool", "name": request.tool, "content": content}
            for request, content in zip(turn.requests, contents, strict=True)
        ] or [{"role": "user", "content": self._protocol.invalid_action}]
        before = [*prompt.messages, assistant]
        # A turn that was stopped or cut gets the end that the model did not come to write.
        closed = [*token_ids, *([] if self._has_end(token_ids) else self._end_ids[:1])]
        merged = self._builder.merge_context_tokens(
            before, [*before, *messages], closed, tools=list(self._protocol.tools)
        )
        replaces = merged.removed_prefix_token_count
        return Observation(merged.token_ids[len(token_ids) - replaces :], replaces=replaces)

    def _has_end(self, token_ids: Sequence[int]) -> bool:
        return bool(token_ids) and token_ids[-1] in self._end_ids

    def _is_stopped(self, text: str) -> bool:
        return any(stop in text for stop in self._protocol.stop)

    def _read_message(self, text: str, finished: bool) -> Turn:
        """Return the answer of a turn without a call; a message that was cut is none, but for a closed tag in it."""
        protocol = self._protocol if finished else replace(self._protocol, answer_in="tag")
        turn = protocol.read(text)
        if turn.calls:  # verl's parser sees none
            return Turn(malformed="bad_call")
        return turn if finished or turn.answer is not None else Turn(malformed="unfinished")

    def _request(self, call: FunctionCall, located: LocatedCall | None) -> tuple[Request, list[str]]:
        """Return what is executed, and what is wrong with it."""
        spans = tuple(one.span for one in located.values) if located else ()
        try:
            arguments = _encodable(json.loads(call.arguments))
        except ValueError:  # some parsers pass on what the model wrote
            arguments = None
        if call.name not in self._names:
            name = decoded(call.name, False)
            error = f"Unknown function '{name}'. Available tools: {self._names}"
            return Request(name, {}, spans=spans, error=error), ["unknown_tool"]
        if not isinstance(arguments, dict):
            return Request(call.name, {}, spans=spans, error=NO_OBJECT), ["bad_arguments"]
        if call.name != SEARCH:
            return Request(call.name, arguments, spans=spans), []
        texts = _texts(arguments)
        if texts is None or not any(text.strip() for text in texts):
            kind = "bad_arguments" if texts is None else "empty_query"
            return Request(call.name, arguments, spans=spans, error=NO_QUERY), [kind]
        # What is executed is what stands in the span, to the last character, or there is no span.
        known = [(one.text, one.span) for one in located.queries()] if located else []
        agree = [text for text, _ in known] == texts
        pairs = known if agree else [(text, (0, 0)) for text in texts]
        queries = tuple((text.strip(), span) for text, span in pairs if text.strip())
        return Request(call.name, arguments, queries, spans if agree else ()), [] if agree else ["unlocated"]

    def _content(self, request: Request, result: Result) -> str:
        """Return the text of a tool message; of several queries every one is named."""
        if isinstance(result, str):
            return decoded(result, False)
        parts = []
        for (query, _), found in zip(request.queries, result, strict=True):
            text = self._protocol.unavailable if found.documents is None else self.rendered(found).strip()
            text = text or self._protocol.no_results
            parts.append(f"{query}:\n{text}" if len(request.queries) > 1 else text)
        return "\n\n".join(parts)

    def _cut(self, content: str, limit: int) -> str:
        """Return the content up to its first ``limit`` tokens."""
        token_ids = encode_text(content, self._tokenizer)
        if len(token_ids) <= limit:
            return content
        return decode(token_ids[:limit], self._tokenizer).rstrip("\ufffd")


def _encodable(value: Any) -> Any:
    """Return a value of JSON in whose texts halves of surrogate pairs, which no tokenizer encodes, are U+FFFD."""
    return json.loads(decoded(json.dumps(value, ensure_ascii=False), False))


def _texts(arguments: Mapping[str, Any]) -> list[str] | None:
    """Return the texts of a search's arguments, or None where there is none or something else."""
    found: list[Any] = []
    for name in (name for name in arguments if name in QUERY_ARGUMENTS):
        value = arguments[name]
        found += value if isinstance(value, list) else [value]
    if not found or not all(isinstance(text, str) for text in found):
        return None
    return found
