"""The wire contract: schemas of request and answer, used to parse and to document, and the bytes of answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import orjson
from pydantic import BaseModel, Field, InstanceOf, ValidationError, create_model, model_validator

from .backends.base import Hit
from .errors import RetrieverError
from .settings import Settings

Text = InstanceOf[str]  # pydantic's own str refuses lone surrogates, which JSON may hold
# An error for each wrong item of a body, up to 8,000,000, would take a minute.
Texts = Annotated[list[Text], Field(fail_fast=True)]


class RequestError(RetrieverError):
    """A request cannot be answered. ``field`` is the wrong one, the message names the fix."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.field = status, field


EITHER = [
    {"required": [given], "properties": {given: {"type": kind}, absent: {"type": "null"}}}
    for given, kind, absent in (("queries", "array", "query"), ("query", "string", "queries"))
]


class RetrieveRequest(BaseModel, strict=True, json_schema_extra={"oneOf": EITHER}):
    """Either ``queries`` or ``query``, and how many documents are wanted. Other fields are ignored, but
    for other spellings of ``topk``."""

    queries: Texts | None = None
    query: Text | None = None
    topk: int | None = None
    return_scores: bool | None = False

    @model_validator(mode="before")
    @classmethod
    def _check_given(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            example = '{"queries": ["…"]}'
            raise RequestError(422, f"the body must be an object like {example}, not {_json_type(values)}")
        if (values.get("queries") is None) == (values.get("query") is None):
            found = "neither is given" if values.get("query") is None else "both are given"
            message = f"give queries (a list of strings) or query (one string); {found}"
            raise RequestError(422, message, "queries")
        if spelt := [name for name in values if name in ("top_k", "topK")]:
            raise RequestError(422, f"{spelt[0]} is not read; the number of documents is topk", "topk")
        if isinstance(topk := values.get("topk"), float) and topk.is_integer():
            return values | {"topk": int(topk)}  # JSON has one kind of number
        return values


class Document(BaseModel):
    """A passage of the corpus; further fields of its line are passed on."""

    id: str
    contents: str


class ScoredDocument(BaseModel):
    """A passage with its score; higher is better."""

    document: Document
    score: float


class RetrieveResponse(BaseModel):
    """One list per query, best first; empty where nothing matches."""

    result: list[list[ScoredDocument | Document]]


class ErrorDetail(BaseModel):
    message: str
    field: str | None


class ErrorResponse(BaseModel):
    """Body of every answer of /retrieve and /document that is not 200."""

    error: ErrorDetail


def request_model(settings: Settings) -> type[RetrieveRequest]:
    """Return the request's schema with the limits of ``settings``."""
    # No max_length: more queries are well formed, and answered with 413.
    queries = Field(None, description=f"at most {settings.max_queries}; more are answered with 413")
    most = f"with more than {settings.most_documents} for all queries the answer is 413"
    topk = Field(settings.topk, description=f"documents per query; {most}")
    in_range = Annotated[int, Field(ge=1, le=settings.max_topk)] | None
    return create_model(
        "RetrieveRequest",
        __base__=RetrieveRequest,
        queries=(Texts | None, queries),
        topk=(in_range, topk),
    )


class SearchRequest(NamedTuple):
    """A checked request. ``queries`` are cleaned and truncated; a blank one has no hits."""

    queries: list[str]
    topk: int
    return_scores: bool
    truncated: int
    """Number of truncated queries."""


def parse(body: bytes, model: type[RetrieveRequest], settings: Settings) -> SearchRequest:
    """Return the request in ``body``, checked against ``model`` (see :func:`request_model`).

    Raises:
        RequestError: 400 not JSON, 413 too many queries or documents, 422 a field is missing or wrong.
    """
    try:
        request = model.model_validate(decode(body))
    except ValidationError as error:
        raise _request_error(error, settings.max_topk) from None
    queries = request.queries if request.query is None else [request.query]
    assert queries is not None  # one of both is given
    if len(queries) > settings.max_queries:
        message = f"{len(queries)} queries, at most {settings.max_queries} a request; send several"
        raise RequestError(413, message, "queries")
    topk = settings.topk if request.topk is None else request.topk
    if (documents := len(queries) * topk) > settings.most_documents:
        asked = f"{len(queries)} queries of {topk} documents are {documents}"
        message = f"{asked}, at most {settings.most_documents} a request; send several, or a smaller topk"
        raise RequestError(413, message, "queries")
    longest = settings.max_query_chars
    return SearchRequest(
        [clean(query[:longest]) for query in queries],
        topk,
        bool(request.return_scores),
        sum(len(query) > longest for query in queries),
    )


def decode(body: bytes) -> Any:
    """Return the JSON value of a body.

    Raises:
        RequestError: 400 not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:  # strict and fast; the standard library accepts lone surrogates, for one
        pass
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None


def _request_error(error: ValidationError, max_topk: int) -> RequestError:
    """Return the first error of a request as the client reads it."""
    first = error.errors(include_url=False, include_context=False)[0]
    (field, *position), value = first["loc"], first["input"]
    rule = {
        "queries": "a string" if position else "a list of strings",
        "query": "a string",
        "topk": f"a whole number from 1 to {max_topk}",
        "return_scores": "true or false",
    }[str(field)]
    found = _json_type(value) if field in ("queries", "query") else shown(value)
    name = f"queries[{position[0]}]" if position else field
    return RequestError(422, f"{name} must be {rule}, not {found}", str(field))


def shown(value: Any) -> str:
    """Return the start of a value, or its type where its text could be as long as a body."""
    return _json_type(value) if isinstance(value, list | dict) else f"{value!r:.40}"


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")


def clean(query: str) -> str:
    """Return the query as every back end accepts it: without NUL, lone surrogates and surrounding space."""
    if "\0" in query:
        query = query.replace("\0", " ")
    if not query.isascii():
        query = query.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return query.strip()


def encode(results: Sequence[Sequence[Hit]], return_scores: bool) -> bytes:
    """Return a :class:`RetrieveResponse` as JSON; documents are spliced in as the bytes they are stored as."""
    scored = b'{"document":%b,"score":%b}'
    rows = [
        b",".join(
            [scored % (document, orjson.dumps(score)) for document, score in hits]
            if return_scores
            else [document for document, _ in hits]
        )
        for hits in results
    ]
    return b'{"result":[[%b]]}' % b"],[".join(rows) if rows else b'{"result":[]}'


def encode_error(message: str, field: str | None = None) -> bytes:
    """Return an :class:`ErrorResponse` as JSON."""
    return json.dumps({"error": {"message": message, "field": field}}).encode()
