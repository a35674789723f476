"""The OpenAPI document: the schemas of :mod:`.schema`, and the answers of every route."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from . import __version__
from .document import DocumentRange, DocumentResponse
from .schema import ErrorResponse, RetrieveResponse, request_model
from .settings import Settings

ERRORS = {
    400: "the body is not JSON",
    408: "the body took too long to arrive",
    413: "too many queries or documents, or too large a body",
    422: "a field is missing or wrong; error.field names it",
    429: "the queue is full; wait for Retry-After seconds",
    500: "the back end failed",
    503: "the index is still loading; wait for Retry-After seconds",
    504: "the deadline passed",
}
DOCUMENT_ERRORS = {
    **{status: ERRORS[status] for status in (400, 408, 413, 422, 500, 503)},
    404: "no document has this id",
    501: "the back end has no documents by id",
}
STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
EXAMPLE = {"queries": ["who built the eiffel tower"], "topk": 3, "return_scores": True}
DOCUMENT = {"id": "17", "contents": '"Eiffel Tower"\nThe Eiffel Tower is a tower in Paris.'}


def document(settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI document of a server with these settings."""
    request = request_model(settings)
    references, schemas = models_json_schema(
        [
            (request, "validation"),
            (DocumentRange, "validation"),
            *((model, "serialization") for model in (RetrieveResponse, DocumentResponse, ErrorResponse)),
        ],
        ref_template="#/components/schemas/{model}",
    )
    error = references[ErrorResponse, "serialization"]
    retrieve = {
        "summary": "The best documents for each query",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": references[request, "validation"], "example": EXAMPLE}
            },
        },
        "responses": {
            "200": _json(
                "documents",
                references[RetrieveResponse, "serialization"],
                {"result": [[{"document": DOCUMENT, "score": 7.4}]]},
            ),
            **{str(status): _json(text, error) for status, text in ERRORS.items()},
        },
    }
    read = {
        "summary": "A document by its id, whole or a range of its characters",
        "responses": {
            "200": _json(
                "the document with the wanted characters of its contents",
                references[DocumentResponse, "serialization"],
                {"document": DOCUMENT, "offset": 0, "total": len(DOCUMENT["contents"])},
            ),
            **{str(status): _json(text, error) for status, text in DOCUMENT_ERRORS.items()},
        },
    }
    schema = DocumentRange.model_json_schema()["properties"]
    query = [{"name": name, "in": "query", "schema": schema[name]} for name in ("offset", "length")]
    body = {"content": {"application/json": {"schema": references[DocumentRange, "validation"]}}}
    loading = {"status": "checking index and corpus", "backend": settings.backend}
    ready = {
        "status": "ready", "backend": settings.backend, "passages": 21015324, "version": "…",
        "settings": settings.shaping_answers(),
    }  # fmt: skip
    text = {
        "content": {"text/plain": {"schema": {"type": "string"}}},
        "description": "text exposition format",
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "retriever_server", "version": __version__},
        "paths": {
            "/retrieve": {"post": retrieve},
            "/document/{id}": {
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "get": {**read, "parameters": query},
                "post": {**read, "requestBody": body},
            },
            "/health": _get("200 while the process lives", {"200": _json("alive", STATUS, {"status": "ok"})}),
            "/ready": _get(
                "200 once /retrieve is served, 503 before, 500 where the corpus was changed while it is served",
                {
                    "200": _json("ready", STATUS, ready),
                    "500": _json("the corpus was changed", STATUS, loading | {"status": "… was changed"}),
                    "503": _json("loading", STATUS, loading),
                },
            ),
            "/metrics": _get("Prometheus metrics", {"200": text}),
        },
        "components": {"schemas": schemas["$defs"]},
    }


def _get(summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": responses}}


def _json(description: str, schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    content = {"schema": schema} if example is None else {"schema": schema, "example": example}
    return {"description": description, "content": {"application/json": content}}
