"""What the policy reads and writes in the world: texts of the search_r1 protocol, and a prompt of its own."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from sd_search_verl import protocol as protocols
from sd_search_verl.protocol.base import Messages
from sd_search_verl.world.words import RELATIONS

PROTOCOL = protocols.get("search_r1")


def prompt(question: str) -> Messages:
    """The chat messages that pose a question. Short: the warm start has taught the protocol already."""
    return [{"role": "user", "content": f"Question: {question}\n"}]


def render(messages: Messages) -> str:
    """The prompt text that the checkpoint's chat template makes of ``messages``: their contents."""
    return "".join(message["content"] for message in messages)


THOUGHTS = tuple(RELATIONS)
"""Words to think with: they mean nothing here."""


def thinking(draw: Random, filler: float) -> list[str]:
    """Words before a turn's action, each with its space; another one follows with probability ``filler``."""
    words = []
    while filler and draw.random() < filler:
        words.append(f" {draw.choice(THOUGHTS)}")
    return words


def search_turn(query: str) -> str:
    """A turn that searches, without thinking."""
    return f"{PROTOCOL.search_open} {query} {PROTOCOL.search_close}"


def answer_turn(answer: str) -> str:
    """A turn that answers, without thinking."""
    return f"{PROTOCOL.answer_open} {answer} {PROTOCOL.answer_close}"


def observation(found: Sequence[str]) -> str:
    """What the environment says to a search that found these passages, or none."""
    return PROTOCOL.observation(PROTOCOL.documents(list(found)) if found else PROTOCOL.no_results)
