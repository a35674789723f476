"""Query spans: find the query tokens of a trajectory from its token ids, never from re-tokenised text.

A query token is one whose characters all lie strictly between a turn's first ``<search>`` and its ``</search>``. A
token that straddles a tag (Qwen's ``?</``) lies outside. Offsets are bytes, because a byte-level token may hold
part of a character; the tags are ASCII, so byte and character views agree on them.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sd_search_verl.protocol.base import Protocol

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


def token_bytes(token_ids: Sequence[int], tokenizer: Any) -> list[bytes]:
    """Return the bytes that each token contributes to the decoded text; unknown ids contribute none."""
    ids = list(token_ids)
    if _is_byte_level(tokenizer):
        table = _byte_table(tokenizer)
        return [table.get(index, b"") for index in ids]
    # Other tokenizers: what a token adds to the text of its predecessor, which settles leading-space rules.
    pieces: list[bytes] = []
    previous = ""
    for position, index in enumerate(ids):
        pair = _decode(tokenizer, ids[max(0, position - 1) : position + 1])
        pieces.append(pair[len(previous) :].encode("utf-8", errors="replace"))
        previous = _decode(tokenizer, [index])
    return pieces


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return False
    decoder = json.loads(backend.decoder.__getstate__())
    parts = decoder.get("decoders", [decoder])
    return [part["type"] for part in parts] == ["ByteLevel"]


def _byte_table(tokenizer: Any) -> dict[int, bytes]:
    """Return the bytes of every token of a byte-level vocabulary; built once per tokenizer, for speed."""
    table = _TABLES.get(tokenizer)
    if table is None:
        added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
        table = {
            index: added[index].encode() if index in added else bytes(_BYTE_OF[char] for char in token)
            for token, index in tokenizer.get_vocab().items()
        }
        _TABLES[tokenizer] = table
    return table


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each printable character in byte-level BPE vocabularies (GPT-2's table, inverted)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return alphabet | {chr(256 + rank): byte for rank, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_TABLES: WeakKeyDictionary[Any, dict[int, bytes]] = WeakKeyDictionary()


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
