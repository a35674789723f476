"""The ASGI application: Starlette routes and lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.convertors import PathConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from . import openapi
from .document import DocumentEndpoint
from .endpoint import RetrieveEndpoint
from .settings import Settings
from .state import ServerState


class AnyConvertor(PathConvertor):
    """Any characters: those of ``path`` without its exception of line breaks."""

    regex = "(?s:.*)"


register_url_convertor("any", AnyConvertor())


class Application(Router):
    """Routes of one process. A bare router: the middleware of ``Starlette`` costs about as much as parsing a request.

    Args:
        on_loaded: called once /retrieve is served, or cannot be: ``server.error`` is then the reason.
    """

    def __init__(self, settings: Settings, on_loaded: Callable[[], None] = lambda: None) -> None:
        self.server = ServerState(settings)
        self._on_loaded = on_loaded
        routes = [
            JsonRoute("/retrieve", RetrieveEndpoint(self.server), methods=["POST"]),
            JsonRoute("/document/{id:any}", DocumentEndpoint(self.server).answer, methods=["GET", "POST"]),
            JsonRoute("/health", self.health),
            JsonRoute("/ready", self.ready),
            JsonRoute("/metrics", self.metrics),
            JsonRoute("/openapi.json", self.openapi),
        ]
        super().__init__(routes, lifespan=self._load_and_close)

    @asynccontextmanager
    async def _load_and_close(self, app: Any) -> AsyncIterator[None]:
        loading = asyncio.create_task(self.server.load(self._on_loaded))
        yield
        loading.cancel()
        if self.server.batcher is not None:
            await self.server.batcher.close()

    async def health(self, request: Request) -> Response:
        """Answer 200 while the process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Answer 200 once /retrieve is served, 503 with what is loaded before, 500 where the corpus was changed."""
        server = self.server
        await server.refresh()
        body: dict[str, Any] = {"status": server.progress, "backend": server.settings.backend}
        if server.engine is None:
            return JSONResponse(body, 503, {"Retry-After": "1"})
        if server.corpus_error is not None:
            return JSONResponse(body | {"status": str(server.corpus_error)}, 500)
        body |= {"passages": server.engine.passages, "version": server.engine.version}
        body["settings"] = server.settings.shaping_answers()
        return JSONResponse(body | {"load_seconds": round(server.load_seconds, 3)})

    async def metrics(self, request: Request) -> Response:
        """Answer with the metrics in Prometheus' text format."""
        return Response(self.server.metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        """Answer with the OpenAPI document."""
        return JSONResponse(openapi.document(self.server.settings))

    async def not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 in JSON."""
        if scope["type"] == "http":
            await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)
        else:
            await super().not_found(scope, receive, send)


class JsonRoute(Route):
    """A route that answers 405 in JSON."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in (self.methods or ()):
            await self.app(scope, receive, send)
        else:
            allowed = {"Allow": ", ".join(sorted(self.methods or ()))}
            await JSONResponse({"detail": "Method Not Allowed"}, 405, allowed)(scope, receive, send)
