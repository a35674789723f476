"""The tools that come with the package, as OpenAI function schemas: what a chat template shows to the policy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Schema = dict[str, Any]
Tool = Callable[[dict[str, Any]], Awaitable[str]]
"""Arguments of a call -> what the policy reads; must not raise."""


def _schema(name: str, description: str, required: str, **arguments: tuple[str, str]) -> Schema:
    properties = {key: {"type": kind, "description": text} for key, (kind, text) in arguments.items()}
    parameters = {"type": "object", "properties": properties, "required": [required]}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


READ = "read"
SCHEMAS: dict[str, Schema] = {
    "search": _schema(
        "search",
        "Search for passages that answer a question. Returns the passages that fit best.",
        "query",
        query=("string", "what to search for"),
    ),
    READ: _schema(
        READ,
        "Read a document that a search found, whole or in part.",
        "id",
        id=("string", "id of the document, as the search gives it"),
        offset=("integer", "first character to return; 0 if left out"),
        length=("integer", "most characters to return"),
    ),
}
"""By name."""
