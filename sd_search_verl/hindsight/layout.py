"""Wording of the block: how the lines of labelled attempts, and what may stand around them, are written.

The paper gives none. ``lines`` is our default; the others are for policies that do not read its labels. Which of them a
policy reads is measured with ``sd-search probe MODEL --set hindsight.layout=NAME``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sd_search_verl.config import HindsightConfig, Layout

CORRECT = "CORRECT"
INCORRECT = "INCORRECT"
HEADER = "Earlier attempts at this question, each with its outcome and its search queries:"
HEADER_UNLABELLED = "Earlier attempts at this question, each with its search queries:"
INSTRUCTION = "Search as attempts with a correct answer did, and not as attempts with a wrong answer did."


@dataclass(frozen=True)
class Attempt:
    """One rollout in the block: its label, the score beside it in [0, 1], and its queries on one line."""

    correct: bool
    score: float
    text: str

    @property
    def label(self) -> str:
        """Return the label as a word."""
        return CORRECT if self.correct else INCORRECT


def _numbered(line: Callable[[Attempt], str]) -> Callable[[Sequence[Attempt]], list[str]]:
    return lambda attempts: [f"{number}. {line(attempt)}" for number, attempt in enumerate(attempts, start=1)]


def _sections(attempts: Sequence[Attempt]) -> list[str]:
    lines = []
    for title, correct in (
        ("Attempts with a correct answer:", True),
        ("Attempts with a wrong answer:", False),
    ):
        chosen = [f"- {attempt.text}" for attempt in attempts if attempt.correct == correct]
        lines += [title, *(chosen or ["- none"])]
    return lines


LAYOUTS: dict[Layout, Callable[[Sequence[Attempt]], list[str]]] = {
    "lines": _numbered(lambda attempt: f"{attempt.label}: {attempt.text}"),
    "outcome_last": _numbered(lambda attempt: f"{attempt.text} -> {attempt.label}"),
    "sentences": _numbered(
        lambda attempt: (
            f"The search for {attempt.text} led to a {'correct' if attempt.correct else 'wrong'} answer."
        )
    ),
    "tags": lambda attempts: [f"<{a.label.lower()}> {a.text} </{a.label.lower()}>" for a in attempts],
    "scores": _numbered(lambda attempt: f"score {attempt.score:.2f}: {attempt.text}"),
    "sections": _sections,
}

EXAMPLE = [
    Attempt(False, 0.0, "novel dune"),
    Attempt(True, 1.0, "author of the novel dune"),
]


def render(attempts: Sequence[Attempt], config: HindsightConfig) -> str:
    """Return the block's text for the attempts shown; without labels there is one layout."""
    if config.labels == "none":
        return "\n".join([HEADER_UNLABELLED, *_numbered(lambda attempt: attempt.text)(attempts)]) + "\n"
    attempts = list(attempts)
    if config.order != "sampling":
        attempts.sort(key=lambda attempt: attempt.correct, reverse=config.order == "correct_first")
    layout = LAYOUTS[config.layout]
    lines = [HEADER, *layout(attempts)]
    if config.demonstration:
        question = "For example, the question was: who wrote the novel dune?"
        lines = [question, *layout(EXAMPLE), f"The next search was: {EXAMPLE[1].text}", "", *lines]
    if config.instruction:
        lines.append(INSTRUCTION)
    return "\n".join(lines) + "\n"
