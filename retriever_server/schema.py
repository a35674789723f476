"""The wire contract: what a request may hold, what an answer looks like. Bytes in, bytes out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from .backends import Hit
from .settings import Settings

FIELDS = ("queries", "query", "topk", "return_scores")


class RequestError(Exception):
    """A request cannot be answered. ``field`` is the guilty one, the message names the fix."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.field = status, field


class SearchRequest(NamedTuple):
    """A checked request. ``queries`` are cleaned and cut; blank ones have no hits by definition."""

    queries: list[str]
    topk: int
    return_scores: bool
    truncated: int


def parse(body: bytes, settings: Settings) -> SearchRequest:
    """Check a request body.

    Raises:
        RequestError: 400 not JSON, 413 too many queries, 422 a field is missing or wrong.
    """
    values = _decode(body)
    if not isinstance(values, dict):
        raise RequestError(422, f'the body must be an object like {{"queries": ["…"]}}, not {_type(values)}')
    queries = _queries(values)
    if len(queries) > settings.max_queries:
        raise RequestError(
            413, f"{len(queries)} queries, at most {settings.max_queries} a request; send several", "queries"
        )
    topk = settings.topk if values.get("topk") is None else values["topk"]
    if isinstance(topk, float) and topk.is_integer():
        topk = int(topk)  # JSON knows one kind of number: 3.0 is a whole one
    if isinstance(topk, bool) or not isinstance(topk, int) or not 1 <= topk <= settings.max_topk:
        raise RequestError(
            422, f"topk must be a whole number from 1 to {settings.max_topk}, not {topk!r:.40}", "topk"
        )
    return_scores = values.get("return_scores")
    if return_scores is not None and not isinstance(return_scores, bool):
        raise RequestError(
            422, f"return_scores must be true or false, not {return_scores!r:.40}", "return_scores"
        )
    longest = settings.max_query_chars
    return SearchRequest(
        [clean(query[:longest]) for query in queries],
        topk,
        bool(return_scores),
        sum(len(query) > longest for query in queries),
    )


def _decode(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:  # strict and fast; the standard library takes lone surrogates, for one
        pass
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None


def _queries(values: dict[str, Any]) -> list[str]:
    given = [name for name in ("queries", "query") if values.get(name) is not None]
    if len(given) != 1:
        found = "both are given" if given else "neither is given"
        raise RequestError(422, f"give queries (a list of strings) or query (one string); {found}", "queries")
    if given == ["query"]:
        if not isinstance(values["query"], str):
            raise RequestError(422, f"query must be a string, not {_type(values['query'])}", "query")
        return [values["query"]]
    queries = values["queries"]
    if not isinstance(queries, list):
        raise RequestError(422, f"queries must be a list of strings, not {_type(queries)}", "queries")
    for position, query in enumerate(queries):
        if not isinstance(query, str):
            raise RequestError(422, f"queries[{position}] must be a string, not {_type(query)}", "queries")
    return queries


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")


def clean(query: str) -> str:
    """The query as every back end can take it: no NUL, no lone surrogate, no outer space."""
    if "\0" in query:
        query = query.replace("\0", " ")
    if not query.isascii():
        query = query.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return query.strip()


def encode(results: Sequence[Sequence[Hit]], return_scores: bool) -> bytes:
    """The answer ``{"result": [...]}``; documents are spliced in as the bytes they are stored as."""
    if return_scores:
        rows = [
            b",".join(
                [b'{"document":%b,"score":%b}' % (document, orjson.dumps(score)) for document, score in hits]
            )
            for hits in results
        ]
    else:
        rows = [b",".join([document for document, _ in hits]) for hits in results]
    return b'{"result":[[%b]]}' % b"],[".join(rows) if rows else b'{"result":[]}'


def encode_error(message: str, field: str | None = None) -> bytes:
    """The body of every answer that is not 200."""
    return json.dumps({"error": {"message": message, "field": field}}).encode()
