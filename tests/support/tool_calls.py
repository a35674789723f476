"""Random turns with tool calls in the form of each family, with the characters of every query as they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

WORDS = [
    "who",
    "wrote",
    "Hattusa",
    "1984",
    "café",
    "naïve",
    "東京",
    "🎬",
    "C++",
    "x<y",
    "a&b",
    "it's",
    "",
    "?",
    "null",
]
MARKS = ['"', "\\", "\n", "\t", "/", "{", "}", ",", ":", "é", "\u2028", "\u00a0", "😀", "<", ">", "'", "`"]
OPENINGS = ["", "<think>\nI need it.\n</think>\n\n", "Let me search: é😀 ", '{"query": "not a call"} ']


def call(family: str, query: str, tool: str = "search", argument: str = "query", **others: int) -> str:
    """A call as the model of a family writes it, with other arguments before the query."""
    values = {**others, argument: query}
    if family == "hermes":
        return f"<tool_call>\n{json.dumps({'name': tool, 'arguments': values})}\n</tool_call>"
    if family == "qwen3_coder":
        inside = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
        return f"<tool_call>\n<function={tool}>\n{inside}</function>\n</tool_call>"
    inside = ",".join(f"{name}:{value}" for name, value in others.items())
    return f'<|tool_call>call:{tool}{{{inside}{"," * bool(inside)}{argument}:<|"|>{query}<|"|>}}<tool_call|>'


@dataclass
class Written:
    """A turn: its text, and of every query the decoded value and the characters that spell it."""

    text: str = ""
    queries: list[tuple[str, int, int]] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.text += text

    def add_query(self, raw: str, value: str) -> None:
        self.queries.append((value, len(self.text), len(self.text) + len(raw)))
        self.text += raw


def value(draw: Random, raw: bool) -> str:
    """A query with what is hard to write: quotes, escapes, line ends, characters outside the basic plane."""
    parts = [draw.choice(WORDS if draw.random() < 0.7 else MARKS) for _ in range(draw.randint(1, 6))]
    text = draw.choice([" ", ""]).join(parts)
    if raw:  # values without escapes cannot hold the syntax around them
        text = text.replace("<", "").replace("\n", " ").strip() or "x"
        return "x" if text.lower() == "null" else text
    return text or "x"


def json_string(draw: Random, text: str) -> str:
    """The inside of a JSON string, with every kind of escape that JSON has."""
    spelled = ""
    for character in text:
        plain = json.dumps(character, ensure_ascii=draw.random() < 0.3)[1:-1]
        if character == "/" and draw.random() < 0.5:
            plain = "\\/"
        elif draw.random() < 0.05:
            units = character.encode("utf-16-be")
            plain = "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
        spelled += plain
    return spelled


def hermes(draw: Random, turn: Written) -> None:
    space = draw.choice(["", " ", "\n", " \n\t "])
    turn.add(f"<tool_call>{draw.choice(['', chr(10), ' '])}{{{space}")
    members: list[Callable[[], None]] = [
        lambda: turn.add('"name": "search"'),
        lambda: _json_arguments(draw, turn, space),
    ]
    if draw.random() < 0.3:
        members.append(lambda: turn.add('"id": {"query": "no", "list": [1, "query"]}'))
    _joined(draw, turn, members, f",{space}")
    turn.add(f"{space}}}{draw.choice(['', chr(10)])}</tool_call>")


def _json_arguments(draw: Random, turn: Written, space: str) -> None:
    turn.add(f'"arguments":{space}{{')

    def one() -> None:
        text = value(draw, raw=False)
        turn.add(f'"query"{space}:{space}"')
        turn.add_query(json_string(draw, text), text)
        turn.add('"')

    def several() -> None:
        turn.add('"queries": [')
        for number in range(draw.randint(1, 3)):
            text = value(draw, raw=False)
            turn.add(f',{space}"' if number else '"')
            turn.add_query(json_string(draw, text), text)
            turn.add('"')
        turn.add("]")

    members = [several if draw.random() < 0.3 else one]
    if draw.random() < 0.5:
        members.append(lambda: turn.add('"top_k": 3'))
    if draw.random() < 0.3:
        members.append(lambda: turn.add('"note": "\\"query\\": \\"no\\""'))
    _joined(draw, turn, members, f",{space}")
    turn.add("}")


def qwen3_coder(draw: Random, turn: Written) -> None:
    turn.add("<tool_call>\n<function=search>\n")

    def query() -> None:
        text = value(draw, raw=True)
        line = draw.choice(["\n", ""])
        turn.add(f"<parameter=query>{line}")
        turn.add_query(text, text)
        turn.add(f"{line}</parameter>")

    members = [
        query,
        *([lambda: turn.add("<parameter=top_k>\n3\n</parameter>")] if draw.random() < 0.5 else []),
    ]
    _joined(draw, turn, members, "\n")
    turn.add("\n</function>\n</tool_call>")


def gemma4(draw: Random, turn: Written) -> None:
    turn.add("<|tool_call>call:search{")

    def query() -> None:
        text = value(draw, raw=True).replace("}", ")")
        turn.add('query:<|"|>')
        turn.add_query(text, text)
        turn.add('<|"|>')

    members = [query, *([lambda: turn.add("top_k:3")] if draw.random() < 0.5 else [])]
    _joined(draw, turn, members, ",")
    turn.add("}<tool_call|>")


WRITERS: dict[str, Callable[[Random, Written], None]] = {
    "hermes": hermes,
    "qwen3_coder": qwen3_coder,
    "gemma4": gemma4,
}
ENDS = {"hermes": "<|im_end|>", "qwen3_coder": "<|im_end|>", "gemma4": ""}


def written_turn(family: str, draw: Random) -> Written:
    """A turn with up to three calls."""
    turn = Written(draw.choice(OPENINGS))
    for number in range(draw.choice([1, 1, 1, 2, 3])):
        turn.add(draw.choice(["\n", " and "]) if number else "")
        WRITERS[family](draw, turn)
    turn.add(ENDS[family])
    return turn


def damaged(text: str, draw: Random) -> str:
    """The text without some characters, cut, or with a piece of syntax where it does not belong."""
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(text) + 1)
        kind = draw.random()
        if kind < 0.4:
            text = text[:place] + text[place + draw.randint(1, 12) :]
        elif kind < 0.6:
            text = text[:place]
        else:
            pieces = [
                "</tool_call>",
                "<tool_call>",
                '"',
                "}",
                "<parameter=",
                ">",
                '<|"|>',
                "\\",
                "é",
                "\n",
                "null",
            ]
            text = text[:place] + draw.choice(pieces) + text[place:]
    return text


def _joined(draw: Random, turn: Written, members: list[Any], separator: str) -> None:
    draw.shuffle(members)
    for number, write in enumerate(members):
        turn.add(separator if number else "")
        write()
