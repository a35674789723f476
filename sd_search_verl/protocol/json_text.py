"""Where the values of a JSON text stand: its members with character ranges, which ``json`` itself does not give."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class Member(NamedTuple):
    """A member of an object, or with an empty key an item of a list: its value and the characters that spell it."""

    key: str
    value: object
    start: int
    end: int


def members(text: str, start: int) -> Iterator[Member]:
    """Yield the members of the valid object or list whose bracket stands at ``start``."""
    is_object = text[start] == "{"
    position = _skip(text, start + 1)
    while text[position] not in "}]":
        key = ""
        if is_object:
            key, position = _DECODER.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)  # past the colon
        value, end = _DECODER.raw_decode(text, position)
        yield Member(key, value, position, end)
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)


def is_json(text: str) -> bool:
    """Return whether a text is one JSON value, as ``json.loads`` has it."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position
