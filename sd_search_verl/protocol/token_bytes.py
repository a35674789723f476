"""The bytes of each token, by the vocabulary's own decoder: the base of every text and span of a rollout.

A character may consist of several tokens, so the text of a rollout is the joined bytes of its tokens, decoded once. Two
kinds of decoder give every token bytes of its own, whatever its neighbours are:

    byte-level BPE (GPT-2, Qwen, Llama-3, tekken)        the token spells its bytes in GPT-2's alphabet
    SentencePiece BPE and unigram (Llama-2, Mistral,     the token is text, U+2581 stands for a space, and the tokens
    Gemma, T5), with or without byte fallback            <0x00> to <0xFF> are bytes

SentencePiece decoders strip the space at the start of a text. A response continues a prompt, so it keeps that space.
"""

from __future__ import annotations

import codecs
import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

from sd_search_verl.errors import UserError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CONTEXT_FREE = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
_TABLES: WeakKeyDictionary[Any, dict[int, bytes]] = WeakKeyDictionary()


class TokenizerError(UserError):
    """The bytes of a token depend on its neighbours, or cannot be known."""

    FOUND = "the text of single tokens of {kind} cannot be known: {reason}"
    FIX = "use a model with a byte-level BPE or SentencePiece tokenizer, in its fast version"

    def __init__(self, tokenizer: Any, reason: str) -> None:
        self.kind, self.reason = type(tokenizer).__name__, reason
        super().__init__(f"{self.FOUND.format(kind=self.kind, reason=reason)}. Fix: {self.FIX}")


def token_bytes(token_ids: Sequence[int], tokenizer: Any) -> list[bytes]:
    """Return the bytes that each token contributes to the text; unknown ids contribute none.

    Raises:
        TokenizerError: the tokenizer is of a family whose tokens have no bytes of their own.
    """
    table = byte_table(tokenizer)
    return [table.get(index, b"") for index in token_ids]


def tokens_through(token_ids: Sequence[int], tokenizer: Any, ends: Sequence[str]) -> int:
    """Return how many tokens there are up to the one that completes the first of ``ends``; all, if none occurs."""
    pieces = token_bytes(token_ids, tokenizer)
    text = b"".join(pieces)
    found = [(text.find(end.encode()), len(end.encode())) for end in ends]
    last = min((place + length for place, length in found if place >= 0), default=None)
    if last is None:
        return len(pieces)
    sizes = list(accumulate(map(len, pieces)))
    return bisect_left(sizes, last) + 1


def token_texts(token_ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Return a text per token that join to :func:`decode`; a character goes to the token that completes it."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts = [decoder.decode(piece) for piece in token_bytes(token_ids, tokenizer)]
    if texts:
        texts[-1] += decoder.decode(b"", final=True)
    return texts


def decode(token_ids: Sequence[int], tokenizer: Any) -> str:
    """Return the text of tokens, special tokens included; bytes that are no UTF-8 become U+FFFD."""
    return b"".join(token_bytes(token_ids, tokenizer)).decode("utf-8", errors="replace")


def byte_table(tokenizer: Any) -> dict[int, bytes]:
    """Return the bytes of every token of the vocabulary; built once per tokenizer.

    Raises:
        TokenizerError: see :func:`token_bytes`.
    """
    table = _TABLES.get(tokenizer)
    if table is None:
        table = _TABLES[tokenizer] = _build_table(tokenizer)
    return table


def _build_table(tokenizer: Any) -> dict[int, bytes]:
    vocabulary = {index: token for token, index in tokenizer.get_vocab().items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        if not hasattr(tokenizer, "sp_model"):
            raise TokenizerError(
                tokenizer, "it is neither of the tokenizers nor of the sentencepiece library"
            )
        return {index: _piece_bytes(piece) for index, piece in vocabulary.items()}
    kinds = _decoder_kinds(backend)
    if not kinds:
        raise TokenizerError(tokenizer, "it has no decoder")
    if kinds == ["ByteLevel"]:
        added = {index: token.content.encode() for index, token in tokenizer.added_tokens_decoder.items()}
        return {index: _spelled_bytes(token) for index, token in vocabulary.items()} | added
    if other := [kind for kind in kinds if kind not in _CONTEXT_FREE]:
        raise TokenizerError(
            tokenizer, f"its {other[0]} decoder writes a token differently beside other tokens"
        )
    decoder, fallback = backend.decoder, "ByteFallback" in kinds
    return {index: _decoded_bytes(token, decoder, fallback) for index, token in vocabulary.items()}


def _decoder_kinds(backend: Any) -> list[str]:
    """Return the names of the decoder's steps, in order."""
    if backend.decoder is None:
        return []
    decoder = json.loads(backend.decoder.__getstate__())
    return [str(step["type"]) for step in decoder.get("decoders", [decoder])]


def _decoded_bytes(token: str, decoder: Any, fallback: bool) -> bytes:
    """Return the bytes of a token amid a text, where no space is stripped."""
    if fallback and (byte := _BYTE_TOKEN.fullmatch(token)):
        return bytes([int(byte[1], 16)])
    return str(decoder.decode(["x", token, "x"]))[1:-1].encode()


def _piece_bytes(piece: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()


def _spelled_bytes(token: str) -> bytes:
    alphabet = _byte_alphabet()
    return bytes(alphabet[char] for char in token) if alphabet.keys() >= set(token) else token.encode()


@cache
def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each printable character in byte-level BPE vocabularies, GPT-2's table inverted."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {char: byte for byte, char in bytes_to_unicode().items()}
