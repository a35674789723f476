"""The protocol of a trajectory: one immutable object with the tags and the texts around them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class ParsedTrajectory:
    """Queries and answer of a trajectory. ``queries`` are stripped and in order; ``answer`` is None without one."""

    queries: list[str]
    answer: str | None


@dataclass(frozen=True)
class Protocol:
    """Tags, prompt and observation text.

    A *turn* of the policy ends at the first closing ``</search>`` or ``</answer>``. Its query is the text from the
    turn's first ``<search>`` to that closing tag, as in Search-R1. Text of the environment stands between the
    observation tags, or is the notice that follows a turn without a valid action.
    """

    name: str
    observation_open: str
    observation_close: str
    prompt_template: str
    """One user message; ``{question}`` is replaced."""
    invalid_action: str
    """Observation after a turn that neither searches nor answers."""
    unavailable: str = "Search is unavailable at the moment."
    """Replaces the documents when retrieval failed."""
    no_results: str = "No documents were found."
    """Replaces the documents when none was found."""
    search_open: str = "<search>"
    search_close: str = "</search>"
    answer_open: str = "<answer>"
    answer_close: str = "</answer>"

    @property
    def instructions(self) -> str:
        """The prompt up to the question."""
        return self.prompt_template.partition("{question}")[0]

    @property
    def stop(self) -> list[str]:
        """Strings that end a turn; they belong to the turn."""
        return [self.search_close, self.answer_close]

    def prompt(self, question: str) -> Messages:
        """Return the chat messages for ``question``; a missing question mark is added, as Search-R1 does."""
        question = question.strip()
        if question and not question.endswith("?"):
            question += "?"
        return [{"role": "user", "content": self.prompt_template.format(question=question)}]

    def documents(self, contents: Sequence[str]) -> str:
        """Render retrieved passages, each ``"title\\ntext"``, as the policy reads them."""
        lines = []
        for number, passage in enumerate(contents, start=1):
            title, _, text = passage.partition("\n")
            lines.append(f"Doc {number}(Title: {title}) {text}\n")
        return "".join(lines)

    def observation(self, text: str) -> str:
        """Return rendered documents, or a message in their place, within the observation tags."""
        return f"\n\n{self.observation_open}{text.strip()}{self.observation_close}\n\n"

    def policy_segments(self, response: str) -> Iterator[tuple[int, int]]:
        """Yield the character ranges of ``response`` that the policy wrote, found by tags and notices.

        For text without a token mask; with a mask use :mod:`sd_search_verl.protocol.spans`.
        """
        start = 0
        for match in self._environment_pattern().finditer(response):
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
            for turn in self.turns(response[start:end]):
                if (query := self.query(turn)) is not None:
                    queries.append(query)
                elif (found := self.answer(turn)) is not None:
                    answer = found
        return ParsedTrajectory(queries, answer)

    def turns(self, text: str) -> Iterator[str]:
        """Yield the policy's text split after every closing tag; a last unfinished turn is included."""
        start = 0
        for match in re.finditer("|".join(map(re.escape, self.stop)), text):
            yield text[start : match.end()]
            start = match.end()
        if start < len(text):
            yield text[start:]

    def query(self, turn: str) -> str | None:
        """Return the stripped query of a turn, or None: no closed search, or an empty one."""
        return self._between(turn, self.search_open, self.search_close) or None

    def answer(self, turn: str) -> str | None:
        """Return the stripped answer of a turn, or None. An empty answer is an answer."""
        return self._between(turn, self.answer_open, self.answer_close)

    def _between(self, turn: str, opening: str, closing: str) -> str | None:
        start = turn.find(opening)
        end = turn.find(closing, start + len(opening))
        return None if start < 0 or end < 0 else turn[start + len(opening) : end].strip()

    def _environment_pattern(self) -> re.Pattern[str]:
        # Innermost tags only: a policy may write an opening observation tag of its own and never close it.
        opening, closing = re.escape(self.observation_open), re.escape(self.observation_close)
        block = f"{opening}(?:(?!{opening}).)*?{closing}"
        return re.compile(f"{block}|{re.escape(self.invalid_action)}", re.DOTALL)
