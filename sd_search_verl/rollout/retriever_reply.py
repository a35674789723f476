"""Parse the reply of a retrieval server: ``{"result": [[document, …], …]}``, with scores or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Document:
    """One passage: ``contents`` is its title line and its text."""

    id: str
    contents: str
    score: float | None


def parse_reply(reply: Any, num_queries: int) -> list[list[Document]]:
    """Return the documents of each query.

    Raises:
        ValueError: the reply is not ``{"result": [...]}`` with one list per query. A short one is never padded.
    """
    result = reply.get("result") if isinstance(reply, dict) else None
    if (
        not isinstance(result, list)
        or len(result) != num_queries
        or not all(isinstance(documents, list) for documents in result)
    ):
        raise ValueError(f'malformed reply: expected {{"result": [{num_queries} lists]}}')
    return [[_document(item) for item in documents] for documents in result]


def _document(item: Any) -> Document:
    scored = isinstance(item, dict) and isinstance(item.get("document"), dict)
    document, score = (item["document"], item.get("score")) if scored else (item, None)
    if not isinstance(document, dict) or not isinstance(document.get("contents"), str):
        raise ValueError('malformed reply: a document without the string "contents"')
    return Document(
        str(document.get("id", "")), document["contents"], float(score) if score is not None else None
    )
