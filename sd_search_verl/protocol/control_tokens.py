"""Control tokens that a question, query or document spells stay text when they are encoded.

A tokenizer turns ``<|im_end|>`` into the token that ends a message, wherever it stands. Control tokens are the special
tokens and the added tokens that the chat template writes, but for the tags that a protocol's prompt explains. Spelled
in a text they get a mark behind their first character; the text is rendered with its marks and encoded in parts,
split at them, so that only control tokens of the template are found. A text that spells none is encoded as it is.
Where a tokenizer looks for added tokens in normalised text, other spellings, such as capitals, become control tokens
too; a text with one of those is encoded character by character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sd_search_verl import protocol as protocols
from sd_search_verl.protocol.token_bytes import decode

_PRIVATE_USE = range(0xE000, 0xF900)


class _Control(NamedTuple):
    """Control tokens of a tokenizer with a chat template: pattern of their texts, ids, whether spellings vary."""

    template: str
    pattern: re.Pattern[str]
    ids: frozenset[int]
    is_normalized: bool

    def split(self, text: str, character: str) -> str:
        """Return the text with ``character`` behind the first one of every control token, and of those in its rest."""
        return self.pattern.sub(
            lambda found: found[0][0] + character + self.split(found[0][1:], character), text
        )


_KNOWN: WeakKeyDictionary[Any, _Control] = WeakKeyDictionary()


def mark(texts: Sequence[str], tokenizer: Any) -> tuple[list[str], str]:
    """Return the texts with a mark inside every control token that they spell, and the mark, one character.

    The mark is a character for private use that no text holds; texts that hold all 6,400 lose one of them.
    """
    whole = "".join(texts)
    unused = (chr(code) for code in _PRIVATE_USE if chr(code) not in whole)
    character = next(unused, chr(_PRIVATE_USE[0]))
    texts = [text.replace(character, "\N{REPLACEMENT CHARACTER}") for text in texts]
    control = _control_tokens(tokenizer)
    marked = [control.split(text, character) for text in texts]
    if control.is_normalized:
        marked = [
            one if control.ids.isdisjoint(encode_marked(one, character, tokenizer)) else character.join(text)
            for one, text in zip(marked, texts, strict=True)
        ]
    return marked, character


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


def _control_tokens(tokenizer: Any) -> _Control:
    template = str(getattr(tokenizer, "chat_template", None) or "")
    known = _KNOWN.get(tokenizer)
    if known is None or known.template != template:
        explained = "".join(protocols.get(name).prompt_template for name in protocols.names())
        control = {
            index: token
            for index, token in tokenizer.added_tokens_decoder.items()
            if (token.special or token.content in template)
            and token.content not in explained
            and len(token.content) > 1
        }
        longest_first = sorted((token.content for token in control.values()), key=len, reverse=True)
        # (?!) never matches: a tokenizer may have no control token.
        pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        varies = normalizer is not None and any(token.normalized for token in control.values())
        known = _KNOWN[tokenizer] = _Control(template, pattern, frozenset(control), varies)
    return known
