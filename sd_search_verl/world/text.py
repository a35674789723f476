"""What the policy reads and writes in the world: texts of the search_r1 protocol, and a prompt of its own."""

from __future__ import annotations

from sd_search_verl import protocol as protocols
from sd_search_verl.protocol.base import Messages

PROTOCOL = protocols.get("search_r1")


def prompt(question: str) -> Messages:
    """The chat messages that pose a question. Short: the warm start has taught the protocol already."""
    return [{"role": "user", "content": f"Question: {question}\n"}]


def render(messages: Messages) -> str:
    """The prompt text that the checkpoint's chat template makes of ``messages``: their contents."""
    return "".join(message["content"] for message in messages)


def search_turn(query: str) -> str:
    """A turn that searches."""
    return f"{PROTOCOL.search_open} {query} {PROTOCOL.search_close}"


def answer_turn(answer: str) -> str:
    """A turn that answers."""
    return f"{PROTOCOL.answer_open} {answer} {PROTOCOL.answer_close}"


def observation(contents: str | None) -> str:
    """What the environment says to a search that found the passage ``contents``, or nothing."""
    found = PROTOCOL.no_results if contents is None else PROTOCOL.documents([contents])
    return PROTOCOL.observation(found)
