"""Query spans: find the query tokens of a trajectory from its token ids, never from re-tokenised text.

A query token is one whose characters all lie strictly between a turn's first ``<search>`` and its ``</search>``. A
token that straddles a tag (Qwen's ``?</``) lies outside. Offsets are bytes, because a byte-level token may hold
part of a character; the tags are ASCII, so byte and character views agree on them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

from sd_search_verl.protocol.base import Protocol
from sd_search_verl.protocol.token_bytes import token_bytes

Span = tuple[int, int]


def query_spans(
    token_ids: Sequence[int], tokenizer: Any, protocol: Protocol, policy_mask: Sequence[int] | None = None
) -> list[Span]:
    """Return the half-open token ranges of the queries in a trajectory, in order.

    Args:
        token_ids: response tokens, length L.
        tokenizer: a transformers tokenizer.
        protocol: tags of the trajectory.
        policy_mask: length L, 1 where the policy wrote the token and 0 for observations. Without it observations are
            recognised by the protocol's tags, as text.

    Returns:
        One ``(start, end)`` per issued query with at least one token strictly inside the tags. An empty or blank
        query was never issued and has no span.
    """
    ids = list(token_ids)
    if policy_mask is not None and len(policy_mask) != len(ids):
        raise ValueError(f"policy_mask has {len(policy_mask)} entries for {len(ids)} tokens")
    pieces = token_bytes(ids, tokenizer)
    starts, text = _offsets(pieces)
    spans: list[Span] = []
    for begin, end in _policy_ranges(text, starts, protocol, policy_mask):
        for open_end, close_start in _query_ranges(text, begin, end, protocol):
            span = _tokens_inside(starts, open_end, close_start)
            if span is not None:
                spans.append(span)
    return spans


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
        # latin-1 keeps one character per byte, so character offsets are byte offsets.
        yield from protocol.policy_segments(text.decode("latin-1"))
        return
    begin: int | None = None
    for position, wrote in enumerate([*mask, 0]):
        if wrote and begin is None:
            begin = position
        elif not wrote and begin is not None:
            yield starts[begin], starts[position]
            begin = None


def _query_ranges(text: bytes, begin: int, end: int, protocol: Protocol) -> Iterator[Span]:
    """Yield the byte ranges strictly between the tags of every issued query in ``text[begin:end]``."""
    position = begin
    for turn in protocol.turns(text[begin:end].decode("latin-1")):
        if protocol.query(turn):
            open_end = position + turn.index(protocol.search_open) + len(protocol.search_open)
            yield open_end, position + turn.index(protocol.search_close, open_end - position)
        position += len(turn)


def _tokens_inside(starts: list[int], open_end: int, close_start: int) -> Span | None:
    """Return the tokens that begin at or after ``open_end`` and end at or before ``close_start``."""
    first = bisect_left(starts, open_end)
    last = bisect_right(starts, close_start) - 1
    return (first, last) if first < last else None
