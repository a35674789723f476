"""The tool ``read``: a document of the retrieval server by its id, whole or a range of its characters."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

UNAVAILABLE = "Reading is unavailable at the moment."
NO_ID = "read needs the argument id: the id of a document as a search gives it."

Fetch = Callable[[str, dict[str, int]], Awaitable[tuple[int, bytes]]]
"""Document id and range -> status and body of the server's answer."""


async def read_document(arguments: Mapping[str, Any], fetch: Fetch) -> str:
    """Return what the policy reads: the text, or what is wrong with the arguments. Never raises.

    The text says which of how many characters it holds where that is not all.
    """
    document_id = arguments.get("id")
    if not isinstance(document_id, (str, int)) or isinstance(document_id, bool):
        return NO_ID
    wanted = {name: arguments[name] for name in ("offset", "length") if arguments.get(name) is not None}
    if problem := next((name for name, value in wanted.items() if not _is_count(value)), None):
        return f"{problem} must be a whole number of characters."
    try:
        status, body = await fetch(str(document_id), wanted)
        answer = json.loads(body)
        if status in (404, 422):
            return str(answer["error"]["message"])
        if status != 200:
            return UNAVAILABLE
        contents, offset, total = answer["document"]["contents"], answer["offset"], answer["total"]
    except Exception:
        return UNAVAILABLE
    end = offset + len(contents)
    return (
        str(contents) if len(contents) == total else f"[characters {offset} to {end} of {total}]\n{contents}"
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
