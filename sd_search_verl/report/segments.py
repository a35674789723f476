"""Split a response into segments: thinking, queries token by token, documents, answer.

The mask separates the policy's tokens from the environment's, and the recorded spans are the query tokens; tags only
classify the rest of the policy's text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sd_search_verl.runs.schema import Trace

Segment = tuple[Any, ...]
"""``(kind, text)``, or ``("query", tokens, credits, divergences)``, the last two None where they were not recorded.

Kinds: tag, think, refine, answer; query (scored tokens), search (query text that shares a token with a tag, and is
not scored) and call (a tool call around its query); documents, result (of another tool) and notice (the environment's);
text (the policy's, outside all tags); blank (white space).
"""

_TAG = re.compile(r"(</?(?:think|search|refine|answer|tool_call)>|<\|tool_call>|<tool_call\|>)")
_KINDS = {"<tool_call>": "call", "<|tool_call>": "call"}
_OBSERVATION = re.compile(r"(\s*)(<(information|documents)>)(.*?)(</\3>)?(\s*)", re.DOTALL)
_TOOL_RESULT = re.compile(
    r"(<tool_response>\n|<\|tool_response>response:\w+\{value:)(.*?)(\n</tool_response>|\}<tool_response\|>)",
    re.DOTALL,
)
_BROKEN = "\ufffd"


def segments(trace: Trace) -> list[Segment]:
    """Return the segments of a trace, in order; their texts joined are the response."""
    tokens = whole_characters(trace.tokens, trace.response)
    spans = [tuple(span) for span in trace.spans]
    nothing = [None] * len(spans)
    credits = dict(zip(spans, trace.credit or nothing, strict=True))
    divergences = dict(zip(spans, trace.divergence or nothing, strict=True))
    found: list[Segment] = []
    for start, end, policy in _turns(trace.mask):
        if not policy:
            found += _observation("".join(tokens[start:end]))
            continue
        opened = ["text"]
        for span in _inside(spans, start, end):
            first, last = span
            found += _by_tags("".join(tokens[start:first]), opened)
            found.append(("query", tokens[first:last], credits[span], divergences[span]))
            start = last
        found += _by_tags("".join(tokens[start:end]), opened)
    return found


def whole_characters(tokens: Sequence[str], response: str) -> list[str]:
    """Return tokens whose texts join to the response.

    A token that holds part of a character shows as U+FFFD. The character goes to the first of its tokens, and
    nothing to the others. Tokens that cannot be matched with the response stay as they are.
    """
    if _BROKEN not in "".join(tokens):
        return list(tokens)
    whole = list(tokens)
    place = index = 0
    while index < len(tokens):
        if _BROKEN not in tokens[index]:
            if not response.startswith(tokens[index], place):
                return list(tokens)
            place += len(tokens[index])
            index += 1
            continue
        broken = index
        while index < len(tokens) and (_BROKEN in tokens[index] or not tokens[index]):
            whole[index] = ""
            index += 1
        end = response.find(tokens[index], place + 1) if index < len(tokens) else len(response)
        if end < 0:
            return list(tokens)
        whole[broken] = response[place:end]
        place = end
    return whole if place == len(response) else list(tokens)


def _turns(mask: Sequence[int]) -> Iterator[tuple[int, int, bool]]:
    """Yield maximal ranges of tokens by one author, and whether it is the policy."""
    start = 0
    for index in range(1, len(mask) + 1):
        if index == len(mask) or bool(mask[index]) != bool(mask[start]):
            yield start, index, bool(mask[start])
            start = index


def _inside(spans: Sequence[Sequence[int]], start: int, end: int) -> list[tuple[int, int]]:
    return sorted((first, last) for first, last in spans if start <= first < last <= end)


def _observation(text: str) -> list[Segment]:
    """Return the segments of an observation: documents stay whole; text without observation tags is a notice."""
    match = _OBSERVATION.fullmatch(text)
    if match is None:
        return [*_tool_results(text)] if _TOOL_RESULT.search(text) else [("notice", text)]
    before, opening, _, documents, closing, after = match.groups(default="")
    parts = [
        ("blank", before),
        ("tag", opening),
        ("documents", documents),
        ("tag", closing),
        ("blank", after),
    ]
    return [part for part in parts if part[1]]


def _tool_results(text: str) -> Iterator[Segment]:
    """Yield the segments of tool messages: what the template writes is a tag."""
    start = 0
    for found in _TOOL_RESULT.finditer(text):
        yield "tag", text[start : found.end(1)]
        yield "documents" if "Doc 1" in found[2] else "result", found[2]
        start = found.start(3)
    yield "tag", text[start:]


def _by_tags(text: str, opened: list[str]) -> Iterator[Segment]:
    """Yield the segments of the policy's text; ``opened[0]`` is the kind of the next one, also across calls."""
    for piece in _TAG.split(text):
        if _TAG.fullmatch(piece):
            closes = piece.startswith("</") or piece.endswith("|>")
            opened[0] = "text" if closes else _KINDS.get(piece, piece.strip("<>"))
            yield "tag", piece
        elif piece:
            yield opened[0] if piece.strip() else "blank", piece
