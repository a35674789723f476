"""Check the chat messages of a prompt: one rule for training and evaluation."""

from __future__ import annotations

from typing import Any

from sd_search_verl.data.jsonl import Problem, check_text
from sd_search_verl.protocol.prompt import text_messages


def message_problem(number: int, name: str, messages: Any) -> Problem | None:
    """Return what is wrong with a prompt, or None. Content is a text, or a list of parts that are texts."""
    if not isinstance(messages, list) or not messages:
        kind = "a text" if isinstance(messages, str) else "empty or no list"
        return Problem(number, name, f"is {kind}; a list of messages is needed")
    for place, message in enumerate(messages):
        where = f"{name}[{place}]"
        if not isinstance(message, dict):
            return Problem(number, where, "is no message with role and content")
        if (problem := check_text(number, f"{where}.role", message.get("role"))) is not None:
            return problem
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            if (
                not isinstance(part, dict)
                or part.get("type") != "text"
                or not isinstance(part.get("text"), str)
            ):
                return Problem(number, f"{where}.content", f"has a part that is no text: {str(part)[:60]}")
        (joined,) = text_messages([{**message, "content": content}])
        if (problem := check_text(number, f"{where}.content", joined["content"])) is not None:
            return problem
    if messages[-1]["role"] != "user":
        return Problem(
            number, f"{name}[{len(messages) - 1}].role", f"is {messages[-1]['role']!r}, not 'user'"
        )
    return None
