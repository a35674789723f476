"""Control tokens that a question, query or document spells stay text when they are encoded.

A tokenizer turns ``<|im_end|>`` into the token that ends a message, wherever it stands. Control tokens are the special
tokens and the added tokens that the chat template writes, but for the tags that a protocol's prompt explains. Spelled
in a text they get a mark behind their first character; the text is rendered with its marks and encoded in parts,
split at them, so that only control tokens of the template are found. A text that spells none is encoded as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sd_search_verl import protocol as protocols
from sd_search_verl.protocol.token_bytes import decode

_PRIVATE_USE = range(0xE000, 0xF900)
_PATTERNS: WeakKeyDictionary[Any, tuple[str, re.Pattern[str]]] = WeakKeyDictionary()


def mark(texts: Sequence[str], tokenizer: Any) -> tuple[list[str], str]:
    """Return the texts with a mark inside every control token that they spell, and the mark, one character."""
    whole = "".join(texts)
    character = next(chr(code) for code in _PRIVATE_USE if chr(code) not in whole)
    pattern = _control_tokens(tokenizer)
    return [
        pattern.sub(lambda found: found[0][0] + character + found[0][1:], text) for text in texts
    ], character


def encode_marked(text: str, character: str, tokenizer: Any) -> list[int]:
    """Return the token ids of a text with the marks of :func:`mark`; the ids decode to the text without marks."""
    first, *others = text.split(character)
    token_ids = list(tokenizer.encode(first, add_special_tokens=False))
    for part in others:
        token_ids += _encode_continuation(part, tokenizer)
    return token_ids


def encode_text(text: str, tokenizer: Any) -> list[int]:
    """Return the token ids of a text without control tokens."""
    (marked,), character = mark([text], tokenizer)
    return encode_marked(marked, character, tokenizer)


def _encode_continuation(text: str, tokenizer: Any) -> list[int]:
    """Return the ids of a text without the space that SentencePiece puts before it."""
    token_ids = list(tokenizer.encode(text, add_special_tokens=False))
    if decode(token_ids, tokenizer) == f" {text}":
        line_end = tokenizer.encode("\n", add_special_tokens=False)
        behind = list(tokenizer.encode(f"\n{text}", add_special_tokens=False))
        if behind[: len(line_end)] == line_end:
            return behind[len(line_end) :]
    return token_ids


def _control_tokens(tokenizer: Any) -> re.Pattern[str]:
    template = str(getattr(tokenizer, "chat_template", None) or "")
    known = _PATTERNS.get(tokenizer)
    if known is None or known[0] != template:
        explained = "".join(protocols.get(name).prompt_template for name in protocols.names())
        control = {
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if (token.special or token.content in template)
            and token.content not in explained
            and len(token.content) > 1
        }
        longest_first = sorted(control, key=len, reverse=True)
        # (?!) never matches: a tokenizer may have no control token.
        known = template, re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        _PATTERNS[tokenizer] = known
    return known[1]
