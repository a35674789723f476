"""The texts of the world: a short prompt, and turns and observations of the search_r1 protocol."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from sd_search_verl import protocol as protocols
from sd_search_verl.protocol.base import Messages
from sd_search_verl.world.words import RELATIONS

PROTOCOL = protocols.get("search_r1")


def prompt(question: str) -> Messages:
    """Return the chat messages of a question; short, because the warm start has taught the protocol."""
    return [{"role": "user", "content": f"Question: {question}\n"}]


def render(messages: Messages) -> str:
    """Return the prompt text that the checkpoint's chat template makes of ``messages``: their contents."""
    return "".join(message["content"] for message in messages)


THOUGHTS = tuple(RELATIONS)
"""Words of thinking; they carry no information."""


def thinking(draw: Random, filler: float) -> list[str]:
    """Return the words before a turn's action, each with its space; another follows with probability ``filler``."""
    words = []
    while filler and draw.random() < filler:
        words.append(f" {draw.choice(THOUGHTS)}")
    return words


def search_turn(query: str) -> str:
    """Return a turn that searches, without thinking."""
    return f"{PROTOCOL.search_open} {query} {PROTOCOL.search_close}"


def answer_turn(answer: str) -> str:
    """Return a turn that answers, without thinking."""
    return f"{PROTOCOL.answer_open} {answer} {PROTOCOL.answer_close}"


def observation(found: Sequence[str]) -> str:
    """Return the observation after a search that found these passages."""
    return PROTOCOL.observation(PROTOCOL.documents(list(found)) if found else PROTOCOL.no_results)
