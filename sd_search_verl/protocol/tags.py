"""Tag protocols: a turn searches or answers between tags, and observations are text between tags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sd_search_verl.protocol.base import SEARCH, Call, Protocol, Turn, Value


@dataclass(frozen=True)
class TagProtocol(Protocol):
    """Tags, prompt and observation text.

    A *turn* of the policy ends at the first closing ``</search>`` or ``</answer>``. Its query is the text from the
    turn's first ``<search>`` to that closing tag, as in Search-R1. Text of the environment stands between the
    observation tags, or is the notice that follows a turn without a valid action.
    """

    name: str
    observation_open: str
    observation_close: str
    prompt_template: str
    invalid_action: str
    """Observation after a turn that neither searches nor answers."""
    unavailable: str = "Search is unavailable at the moment."
    no_results: str = "No documents were found."
    search_open: str = "<search>"
    search_close: str = "</search>"
    answer_open: str = "<answer>"
    answer_close: str = "</answer>"

    @property
    def stop(self) -> list[str]:
        """The closing tags."""
        return [self.search_close, self.answer_close]

    def observation(self, text: str) -> str:
        """Return rendered documents, or a message in their place, within the observation tags."""
        return f"\n\n{self.observation_open}{text.strip()}{self.observation_close}\n\n"

    def turns(self, text: str) -> Iterator[str]:
        """Yield the policy's text split after every closing tag; a last unfinished turn is included."""
        start = 0
        for match in re.finditer("|".join(map(re.escape, self.stop)), text):
            yield text[start : match.end()]
            start = match.end()
        if start < len(text):
            yield text[start:]

    def read(self, turn: str) -> Turn:
        """Return the turn's query as the one value of a search, or its answer."""
        if (inside := self._between(turn, self.search_open, self.search_close)) is not None:
            start, end = inside
            if turn[start:end].strip():
                return Turn((Call(SEARCH, (Value("query", start, end),)),))
        if (answer := self.answer(turn)) is not None:
            return Turn(answer=answer)
        if self.search_open not in turn:
            return Turn(malformed="no_action")
        return Turn(malformed="empty_query" if turn.endswith(self.search_close) else "unfinished")

    def query(self, turn: str) -> str | None:
        """Return the stripped query of a turn, or None: no closed search, or an empty one."""
        return next(
            (value.text(turn).strip() for call in self.read(turn).calls for value in call.values), None
        )

    def answer(self, turn: str) -> str | None:
        """Return the stripped answer of a turn, or None. An empty answer is an answer."""
        inside = self._between(turn, self.answer_open, self.answer_close)
        return None if inside is None else turn[slice(*inside)].strip()

    def environment(self) -> re.Pattern[str]:
        """Return the pattern of observations and notices."""
        # Innermost tags only: a policy may write an opening observation tag of its own and never close it.
        opening, closing = re.escape(self.observation_open), re.escape(self.observation_close)
        block = f"{opening}(?:(?!{opening}).)*?{closing}"
        return re.compile(f"{block}|{re.escape(self.invalid_action)}", re.DOTALL)

    def is_of(self, text: str) -> bool:
        """Return whether a text names the tags of observations."""
        return self.observation_close in text

    def explained_in(self, prompt: str) -> bool:
        """Return whether a prompt names the opening tag of observations."""
        return self.observation_open in prompt

    def _between(self, turn: str, opening: str, closing: str) -> tuple[int, int] | None:
        start = turn.find(opening)
        end = turn.find(closing, start + len(opening))
        return None if start < 0 or end < 0 else (start + len(opening), end)
