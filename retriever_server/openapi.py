"""What /openapi.json says about each route, with examples."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from .settings import Settings

DOCUMENT = {
    "type": "object",
    "required": ["id", "contents"],
    "properties": {"id": {"type": "string"}, "contents": {"type": "string"}},
}
SCORED = {
    "type": "object",
    "required": ["document", "score"],
    "properties": {"document": DOCUMENT, "score": {"type": "number"}},
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "field"],
            "properties": {"message": {"type": "string"}, "field": {"type": ["string", "null"]}},
        }
    },
}


def _answer(description: str, schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"description": description, "content": {"application/json": content}}


def retrieve(settings: Settings) -> dict[str, Any]:
    """Arguments of the route decorator of POST /retrieve."""
    topk = {
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": settings.max_topk,
        "default": settings.topk,
        "description": "documents per query",
    }
    scores = {"type": ["boolean", "null"], "default": False, "description": "with scores, or documents alone"}
    # No maxItems: more is well formed, and 413.
    queries = {
        "type": "array",
        "items": {"type": "string"},
        "description": f"at most {settings.max_queries}; more are answered with 413",
    }
    common = {"topk": topk, "return_scores": scores}
    body = {
        "oneOf": [
            {
                "type": "object",
                "title": "several queries",
                "required": ["queries"],
                "properties": {"queries": queries, "query": {"type": "null"}, **common},
            },
            {
                "type": "object",
                "title": "one query",
                "required": ["query"],
                "properties": {"query": {"type": "string"}, "queries": {"type": "null"}, **common},
            },
        ]
    }
    document = {"id": "17", "contents": '"Eiffel Tower"\nThe Eiffel Tower is a tower in Paris.'}
    result = {
        "type": "object",
        "required": ["result"],
        "properties": {
            "result": {
                "type": "array",
                "description": "one list per query, best first; empty where nothing matches",
                "items": {"type": "array", "items": {"anyOf": [SCORED, DOCUMENT]}},
            }
        },
    }
    errors = {
        400: "the body is not JSON",
        408: "the body took too long to arrive",
        413: "too many queries or too large a body",
        422: "a field is missing or wrong; error.field names it",
        429: "the queue is full; wait for Retry-After seconds",
        500: "the back end failed",
        503: "the index is still loading; wait for Retry-After seconds",
        504: "the deadline passed",
    }
    return {
        "summary": "The best documents for each query",
        "responses": {
            200: _answer("documents", result, {"result": [[{"document": document, "score": 7.4}]]}),
            **{status: _answer(text, ERROR) for status, text in errors.items()},
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": body,
                        "example": {
                            "queries": ["who built the eiffel tower"],
                            "topk": 3,
                            "return_scores": True,
                        },
                    }
                },
            }
        },
    }


_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
HEALTH: dict[int | str, dict[str, Any]] = {200: _answer("alive", _STATUS, {"status": "ok"})}
READY: dict[int | str, dict[str, Any]] = {
    200: _answer(
        "ready", _STATUS, {"status": "ready", "backend": "bm25", "passages": 21015324, "version": "…"}
    ),
    503: _answer("loading", _STATUS, {"status": "checking index and corpus", "backend": "bm25"}),
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "text exposition format", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


def json_response(body: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    """A small JSON answer."""
    return JSONResponse(body, status, headers)
