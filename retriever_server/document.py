"""GET and POST /document/{id}: a passage of the corpus by its id, whole or a range of its characters."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from .backends.base import NoLookupError
from .endpoint import read_body
from .schema import Document, RequestError, decode, encode_error, shown
from .state import ServerState

LARGEST = 2**53 - 1  # JSON readers may hold larger numbers as inexact ones


class DocumentRange(BaseModel):
    """Which characters of the contents are wanted; in the query string of GET, in the body of POST."""

    offset: Annotated[int, Field(ge=0, le=LARGEST, description="first character")] = 0
    length: Annotated[int, Field(ge=1, le=LARGEST, description="most characters")] | None = None


class DocumentResponse(BaseModel):
    """The passage with the wanted characters of its contents."""

    document: Document
    offset: int
    total: Annotated[int, Field(description="characters of the whole contents")]


class DocumentEndpoint:
    """Answer GET and POST /document/{id}."""

    def __init__(self, server: ServerState) -> None:
        self._server = server

    async def answer(self, request: Request) -> Response:
        """Answer with the passage, or with an error as /retrieve has it."""
        try:
            status, body = 200, await self._answer(request)
        except RequestError as error:
            status, body = error.status, encode_error(str(error), error.field)
        self._server.metrics.requests("/document", status).inc()
        headers = {"Retry-After": "1"} if status == 503 else None
        return Response(body, status, headers, media_type="application/json")

    async def _answer(self, request: Request) -> bytes:
        engine = self._server.engine
        if engine is None:
            raise RequestError(503, f"not ready: {self._server.progress}")
        wanted = await self._range(request)
        passage_id = request.path_params["id"]
        try:
            line = await asyncio.to_thread(engine.document, passage_id)
        except NoLookupError as error:
            raise RequestError(501, str(error)) from None
        except Exception as error:
            raise RequestError(500, f"the back end failed: {type(error).__name__}: {error}") from error
        if line is None:
            raise RequestError(404, f"no document has the id {passage_id!r}", "id")
        document = orjson.loads(line)
        contents, end = document["contents"], None if wanted.length is None else wanted.offset + wanted.length
        document["contents"] = contents[wanted.offset : end]
        return orjson.dumps({"document": document, "offset": wanted.offset, "total": len(contents)})

    async def _range(self, request: Request) -> DocumentRange:
        values: Any = dict(request.query_params)
        if request.method == "POST":
            body = await read_body(request.receive, self._server.settings.max_body_bytes)
            values = decode(body) if body else values
        try:
            return DocumentRange.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            field = str(first["loc"][0]) if first["loc"] else None
            found = shown(first["input"])
            if field is None:
                raise RequestError(422, f"the body must be an object, not {found}") from None
            least = 0 if field == "offset" else 1
            message = f"{field} must be a whole number from {least} to {LARGEST}, not {found}"
            raise RequestError(422, message, field) from None
