"""Query spans: find the query tokens of a trajectory from its token ids, never from re-tokenised text.

A query token is one whose characters all lie strictly inside a query: between a turn's first ``<search>`` and its
``</search>``, or inside the value of a tool call's query argument. A token that straddles an end (Qwen's ``?</``) lies
outside. Offsets are bytes, because a byte-level token may hold part of a character; tags and the syntax of calls are
ASCII, so byte and character views agree on them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sd_search_verl.protocol.base import Call, Protocol, Value, decoded
from sd_search_verl.protocol.token_bytes import token_bytes

Span = tuple[int, int]


class Located(NamedTuple):
    """A value of a call, its decoded text, and its half-open token range, ``(0, 0)`` where no token lies inside."""

    value: Value
    text: str
    span: Span


class LocatedCall(NamedTuple):
    """A call and its located values."""

    call: Call
    values: list[Located]

    def queries(self) -> list[Located]:
        """Return the values that are queries, blank ones included."""
        queries = set(self.call.queries())
        return [one for one in self.values if one.value in queries]


def query_spans(
    token_ids: Sequence[int], tokenizer: Any, protocol: Protocol, policy_mask: Sequence[int] | None = None
) -> list[Span]:
    """Return the half-open token ranges of the queries in a trajectory, in order.

    Args:
        token_ids: response tokens, length L.
        tokenizer: a transformers tokenizer.
        protocol: how the trajectory is read.
        policy_mask: length L, 1 where the policy wrote the token and 0 for observations. Without it observations are
            recognised by the protocol's texts.

    Returns:
        One ``(start, end)`` per issued query with at least one token strictly inside. An empty or blank query was
        never issued and has no span.
    """
    calls = locate_calls(token_ids, tokenizer, protocol, policy_mask)
    queries = (one for call in calls for one in call.queries() if one.text.strip())
    return [one.span for one in queries if one.span[0] < one.span[1]]


def locate_calls(
    token_ids: Sequence[int], tokenizer: Any, protocol: Protocol, policy_mask: Sequence[int] | None = None
) -> Iterator[LocatedCall]:
    """Yield every call in a trajectory with its values, in order; see :func:`query_spans`."""
    ids = list(token_ids)
    if policy_mask is not None and len(policy_mask) != len(ids):
        raise ValueError(f"policy_mask has {len(policy_mask)} entries for {len(ids)} tokens")
    starts, text = _offsets(token_bytes(ids, tokenizer))
    for position, stop in _policy_ranges(text, starts, protocol, policy_mask):
        # latin-1 keeps one character per byte, so character offsets are byte offsets.
        for turn in protocol.turns(text[position:stop].decode("latin-1")):
            for call in protocol.read(turn).calls:
                found = []
                for value in call.values:
                    begin, end = position + value.start, position + value.end
                    raw = text[begin:end].decode("utf-8", "replace")
                    span = _tokens_inside(starts, begin, end)
                    found.append(Located(value, decoded(raw, value.escaped), span))
                yield LocatedCall(call, found)
            position += len(turn)


def _offsets(pieces: Sequence[bytes]) -> tuple[list[int], bytes]:
    """Return the byte offset of every token's start, with the total length as a last entry, and the whole text."""
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece))
    return starts, b"".join(pieces)


def _policy_ranges(
    text: bytes, starts: list[int], protocol: Protocol, mask: Sequence[int] | None
) -> Iterator[Span]:
    """Yield the byte ranges of uninterrupted policy text."""
    if mask is None:
        yield from protocol.policy_segments(text.decode("latin-1"))
        return
    begin: int | None = None
    for position, wrote in enumerate([*mask, 0]):
        if wrote and begin is None:
            begin = position
        elif not wrote and begin is not None:
            yield starts[begin], starts[position]
            begin = None


def _tokens_inside(starts: list[int], begin: int, end: int) -> Span:
    """Return the tokens that begin at or after ``begin`` and end at or before ``end``."""
    first = bisect_left(starts, begin)
    last = bisect_right(starts, end) - 1
    return (first, last) if first < last else (0, 0)
