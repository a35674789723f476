"""What a retrieval server answers: ``{"result": [[document, …], …]}``, with scores or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Document:
    """One passage: ``contents`` is its title line and its text."""

    id: str
    contents: str
    score: float | None


def parse_answer(answer: Any, queries: int) -> list[list[Document]]:
    """Documents per query from a server's answer, with scores or without.

    Raises:
        ValueError: it is not ``{"result": [...]}`` with one list per query. A short answer is never padded.
    """
    result = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(result, list) or len(result) != queries or not all(isinstance(r, list) for r in result):
        raise ValueError(f'malformed answer: expected {{"result": [{queries} lists]}}')
    return [[_document(item) for item in items] for items in result]


def _document(item: Any) -> Document:
    scored = isinstance(item, dict) and isinstance(item.get("document"), dict)
    document, score = (item["document"], item.get("score")) if scored else (item, None)
    if not isinstance(document, dict) or not isinstance(document.get("contents"), str):
        raise ValueError('malformed answer: a document without the string "contents"')
    return Document(
        str(document.get("id", "")), document["contents"], float(score) if score is not None else None
    )
