"""The protocol of a trajectory: how a turn of the policy calls tools or answers, and where it spells their arguments.

A protocol splits the policy's text into turns and reads a turn: calls of tools with the character range of every value
in them, or an answer, or neither. Tags (:mod:`.tags`) and tool calls of a chat template (:mod:`.tool_call`) are the two
kinds. Everything else, query spans above all, is written once for both.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Messages = list[dict[str, Any]]

SEARCH = "search"
"""The tool whose values are queries."""
QUERY_ARGUMENTS = ("query", "queries")
"""Names of its argument: a text, or a list of texts."""


@dataclass(frozen=True)
class Value:
    """One value of a call: its argument's name, and the characters ``[start, end)`` of the turn strictly inside it.

    The quotation marks of a JSON string lie outside. Every text of a list is a value of its own.
    """

    argument: str
    start: int
    end: int
    escaped: bool = False
    """Whether the characters are those of a JSON string, with its escapes."""
    is_text: bool = True
    """False for a number and the like."""

    def text(self, turn: str) -> str:
        """Return the decoded value."""
        return decoded(turn[self.start : self.end], self.escaped)


@dataclass(frozen=True)
class Call:
    """A call of a tool by name, and the values of its arguments in the order of the text."""

    tool: str
    values: tuple[Value, ...]

    def queries(self) -> Iterator[Value]:
        """Yield the values that are queries, blank ones included."""
        if self.tool == SEARCH:
            yield from (one for one in self.values if one.argument in QUERY_ARGUMENTS and one.is_text)


@dataclass(frozen=True)
class Turn:
    """What a turn does: it calls tools, or answers, or does neither, for which ``malformed`` is the kind."""

    calls: tuple[Call, ...] = ()
    answer: str | None = None
    malformed: str = ""


@dataclass(frozen=True)
class ParsedTrajectory:
    """Queries and answer of a trajectory. ``queries`` are stripped and in order; ``answer`` is None without one."""

    queries: list[str]
    answer: str | None


class Protocol(ABC):
    """How the policy's text is read."""

    name: str
    prompt_template: str
    """One user message; ``{question}`` is replaced."""
    answer_open: str
    answer_close: str
    """What the answer stands between."""
    unavailable: str
    """Replaces the documents when retrieval failed."""
    no_results: str
    """Replaces the documents when none was found."""

    @property
    @abstractmethod
    def stop(self) -> list[str]:
        """Texts that end a turn and belong to it."""

    @abstractmethod
    def turns(self, text: str) -> Iterator[str]:
        """Yield the turns of uninterrupted text of the policy; a last unfinished one is included."""

    @abstractmethod
    def read(self, turn: str) -> Turn:
        """Return what a turn does."""

    @abstractmethod
    def environment(self) -> re.Pattern[str]:
        """Return the pattern of the environment's text in a response."""

    @abstractmethod
    def is_of(self, text: str) -> bool:
        """Return whether a prompt without its question, or a response, shows that it is of this protocol."""

    def explained_in(self, prompt: str) -> bool:
        """Return whether a prompt tells the policy of this protocol."""
        return self.instructions in prompt

    @property
    def instructions(self) -> str:
        """The prompt up to the question."""
        return self.prompt_template.partition("{question}")[0]

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Arguments of the chat template that belong to the protocol."""
        return {}

    def prompt(self, question: str) -> Messages:
        """Return the chat messages for ``question``; a missing question mark is added, as Search-R1 does."""
        question = question.strip()
        if question and not question.endswith("?"):
            question += "?"
        return [{"role": "user", "content": self.prompt_template.replace("{question}", question)}]

    def documents(self, contents: Sequence[str], ids: Sequence[str] = ()) -> str:
        """Render retrieved passages, each ``"title\\ntext"``, as the policy reads them, with their ids if given."""
        lines = []
        for number, passage in enumerate(contents, start=1):
            title, _, text = passage.partition("\n")
            shown_id = f" [id {ids[number - 1]}]" if ids else ""
            lines.append(f"Doc {number}{shown_id}(Title: {title}) {text}\n")
        return "".join(lines)

    def policy_segments(self, response: str) -> Iterator[tuple[int, int]]:
        """Yield the character ranges of ``response`` that the policy wrote, found by the environment's texts.

        For text without a token mask; with a mask use :mod:`sd_search_verl.protocol.spans`.
        """
        start = 0
        for match in self.environment().finditer(response):
            if match.start() > start:
                yield start, match.start()
            start = match.end()
        if start < len(response):
            yield start, len(response)

    def parse(self, response: str) -> ParsedTrajectory:
        """Parse a whole response, observations included; the last closed answer counts."""
        queries: list[str] = []
        answer: str | None = None
        for start, end in self.policy_segments(response):
            for text in self.turns(response[start:end]):
                turn = self.read(text)
                texts = [value.text(text).strip() for call in turn.calls for value in call.queries()]
                queries += filter(None, texts)
                answer = answer if turn.answer is None else turn.answer
        return ParsedTrajectory(queries, answer)


def decoded(raw: str, escaped: bool) -> str:
    """Return the text that ``raw`` spells; halves of surrogate pairs, which no tokenizer encodes, become U+FFFD."""
    text = str(json.loads(f'"{raw}"')) if escaped else raw
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
