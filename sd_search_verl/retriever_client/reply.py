"""Parse the reply of a retrieval server: ``{"result": [[document, …], …]}``, with scores or without.

The types stand here, apart from the client, so that who only names them does not load an HTTP library.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sd_search_verl.protocol.base import decoded


@dataclass(frozen=True)
class Document:
    """One passage: ``contents`` is its title line and its text."""

    id: str
    contents: str
    score: float | None


@dataclass(frozen=True)
class SearchResult:
    """Result of one search. ``documents`` is None when search was unavailable; ``error`` then says why."""

    documents: list[Document] | None
    latency_s: float
    error: str | None


SearchFunction = Callable[[str], Awaitable[SearchResult]]
"""A query -> its documents, or the error."""


def decode_reply(body: bytes) -> Any:
    """Return the JSON value of a reply.

    Raises:
        ValueError: not JSON, or thousands of brackets within each other.
    """
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def parse_reply(reply: Any, num_queries: int, top_k: int) -> list[list[Document]]:
    """Return the documents of each query.

    Raises:
        ValueError: the reply is not ``{"result": [...]}`` with one list per query, or a list has more than ``top_k``
            documents. A short one is never padded, a long one never cut.
    """
    result = reply.get("result") if isinstance(reply, dict) else None
    if (
        not isinstance(result, list)
        or len(result) != num_queries
        or not all(isinstance(documents, list) for documents in result)
    ):
        raise ValueError(
            f'malformed reply: no {{"result": [...]}} with a list of documents for {num_queries} queries'
        )
    if (most := max(map(len, result), default=0)) > top_k:
        raise ValueError(f"malformed reply: {most} documents for a query with topk={top_k}")
    return [[_document(item) for item in documents] for documents in result]


def _document(item: Any) -> Document:
    scored = isinstance(item, dict) and isinstance(item.get("document"), dict)
    document, score = (item["document"], item.get("score")) if scored else (item, None)
    if not isinstance(document, dict) or not isinstance(document.get("contents"), str):
        raise ValueError('malformed reply: a document without the string "contents"')
    document_id = document.get("id")
    return Document(
        "" if document_id is None else decoded(str(document_id), escaped=False),
        decoded(document["contents"], escaped=False),
        None if score is None else _number(score),
    )


def _number(score: Any) -> float:
    try:
        return float(score)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"malformed reply: a document with the score {str(score)[:20]!r}") from None
