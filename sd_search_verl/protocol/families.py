"""Families of tool calls: how a kind of model writes a call, and where in it each value stands.

verl's tool parser of the same name decides what is executed. A family finds the same calls in the same text with the
characters of their values, which a parser does not tell. ``verl_adapter/rollout/tool_dialogue.py`` compares the two at
generation; docs/protocols.md adds a family in a few lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sd_search_verl.protocol.base import Call, Value
from sd_search_verl.protocol.json_text import is_json, members

CHATML_ENDS = ("<|im_end|>", "<|endoftext|>")
CHATML_NOTICE = "\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
CHATML_OBSERVATION = CHATML_NOTICE.format("<tool_response>\n{}\n</tool_response>")


@dataclass(frozen=True)
class Family:
    """How a kind of model writes calls.

    Attributes:
        name: of verl's tool parser.
        opening: the text that begins a call.
        locate: yields the calls in a turn's text, in order, by the rules of verl's parser.
        ends: tokens that end a turn, the usual one first; those that a vocabulary lacks are passed over.
        observation: what a chat template makes of a tool's result between two turns. For texts without a tokenizer and
            a mask: in rollouts the model's own template is used.
        notice: the same of a user message.
        thinking_end: what ends the thinking at the start of a message.
        closing: the text that ends a call.
    """

    name: str
    opening: str
    locate: Callable[[str], Iterator[Call]]
    ends: tuple[str, ...] = CHATML_ENDS
    observation: str = CHATML_OBSERVATION
    notice: str = CHATML_NOTICE
    thinking_end: str = "</think>"
    closing: str = "</tool_call>"


def hermes(text: str) -> Iterator[Call]:
    """Yield calls like ``<tool_call>{"name": "search", "arguments": {"query": "…"}}</tool_call>``."""
    for block in re.finditer(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL):
        start, _ = _stripped(text, *block.span(1))
        if not is_json(block[1]) or text[start] != "{":
            continue
        call = {member.key: member for member in members(text, start)}
        if {"name", "arguments"} <= call.keys() and isinstance(name := call["name"].value, str):
            yield Call(name, tuple(_json_arguments(text, call["arguments"].start)))


def qwen3_coder(text: str) -> Iterator[Call]:
    """Yield calls like ``<tool_call><function=search><parameter=query>…</parameter></function></tool_call>``.

    The last tags of a text may lack their end, and one line end beside a value is not part of it.
    """
    for block in _found("<tool_call>", "</tool_call>", ".*?", text, 0, len(text)):
        for function in _found("<function=", "</function>", ".*", text, *block):
            name_end = text.find(">", *function)
            if name_end < 0:
                continue
            values = {}
            for parameter in _found("<parameter=", "</parameter>", ".*?", text, name_end + 1, function[1]):
                start, end = text.find(">", *parameter) + 1, parameter[1]
                if start:
                    name = text[parameter[0] : start - 1]
                    start += text.startswith("\n", start, end)
                    end -= end > start and text[end - 1] == "\n"
                    values[name] = Value(name, start, end, is_text=text[start:end].lower() != "null")
            yield Call(text[function[0] : name_end], tuple(values.values()))


def gemma4(text: str) -> Iterator[Call]:
    """Yield calls like ``<|tool_call>call:search{query:<|"|>…<|"|>}<tool_call|>``; values have no escapes."""
    word = r"[\w\x80-\xff]+"  # in a view of bytes, letters beyond ASCII are several of these
    argument = re.compile(rf'({word}):(?:<\|"\|>(.*?)<\|"\|>|([^,}}]*))')
    for call in re.finditer(rf"<\|tool_call>call:({word})\{{(.*?)\}}<tool_call\|>", text, re.DOTALL):
        values = {}
        for found in argument.finditer(text, *call.span(2)):
            bare = found[2] is None
            start, end = _stripped(text, *found.span(3)) if bare else found.span(2)
            is_text = not (bare and _is_literal(text[start:end]))
            values[found[1]] = Value(found[1], start, end, is_text=is_text)
        yield Call(call[1], tuple(values.values()))


FAMILIES = {
    family.name: family
    for family in (
        Family("hermes", "<tool_call>", hermes),
        Family("qwen3_coder", "<tool_call>", qwen3_coder),
        Family(
            "gemma4",
            "<|tool_call>",
            gemma4,
            ends=("<turn|>", "<tool_call|>", "<eos>"),
            observation='<|tool_response>response:search{{value:<|"|>{}<|"|>}}<tool_response|>',
            notice="\n<|turn>user\n{}<turn|>\n<|turn>model\n",
            thinking_end="<channel|>",
            closing="<tool_call|>",
        ),
    )
}


def _json_arguments(text: str, start: int) -> Iterator[Value]:
    """Yield the values of the arguments' object at ``start``; of another JSON value, none."""
    if text[start] != "{":
        return
    last = {member.key: member for member in members(text, start)}
    for name, value in last.items():
        items = [value] if not isinstance(value.value, list) else members(text, value.start)
        for item in items:
            quoted = isinstance(item.value, str)
            yield Value(name, item.start + quoted, item.end - quoted, escaped=quoted, is_text=quoted)


def _found(
    opening: str, closing: str, rest: str, text: str, start: int, end: int
) -> Iterator[tuple[int, int]]:
    """Yield the ranges between the tags; without a closing tag ``rest`` is the pattern of what goes to the end.

    ``.*?`` leaves out a last line end, ``.*`` does not: both are the parser's.
    """
    pattern = re.compile(f"{opening}(?:(.*?){closing}|({rest})$)", re.DOTALL)
    for found in pattern.finditer(text, start, end):
        yield found.span(1) if found[1] is not None else found.span(2)


def _is_literal(text: str) -> bool:
    """Return whether the parser makes a number, a truth value or nothing of a text."""
    try:
        float(text)
    except ValueError:
        return text.lower() in ("true", "false", "null")
    return True


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    # ASCII alone: in a view of bytes other white space may be part of a character.
    raw, space = text[start:end], " \t\n\r\f\v"
    start += len(raw) - len(raw.lstrip(space))
    return start, start + len(raw.strip(space))
