"""The Starlette application: routes and lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import openapi
from .endpoint import RetrieveEndpoint
from .settings import Settings
from .state import ServerState


def make_app(settings: Settings, on_loaded: Callable[[], None] = lambda: None) -> Starlette:
    """Return the application of one process; ``app.state.server`` is its :class:`ServerState`.

    Args:
        on_loaded: called once /retrieve is served, or cannot be: ``app.state.server.error`` is then the reason.
    """
    server = ServerState(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(server.load(on_loaded))
        yield
        loading.cancel()
        if server.batcher is not None:
            await server.batcher.close()

    routes = [
        Route("/retrieve", RetrieveEndpoint(server), methods=["POST"]),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi_document),
    ]
    handlers: Any = {HTTPException: json_error}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.state.server = server
    return app


async def health(request: Request) -> Response:
    """Answer 200 while the process lives."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """Answer 200 once /retrieve is served, and 503 with what is being loaded before."""
    server: ServerState = request.app.state.server
    body: dict[str, Any] = {"status": server.progress, "backend": server.settings.backend}
    if server.engine is None:
        return JSONResponse(body, 503, {"Retry-After": "1"})
    body |= {"passages": server.engine.passages, "version": server.engine.version}
    return JSONResponse(body | {"load_seconds": round(server.load_seconds, 3)})


async def metrics(request: Request) -> Response:
    """Answer with the metrics in Prometheus' text format."""
    return Response(request.app.state.server.metrics.text(), media_type="text/plain; version=0.0.4")


async def openapi_document(request: Request) -> Response:
    """Answer with the OpenAPI document."""
    return JSONResponse(openapi.document(request.app.state.server.settings))


async def json_error(request: Request, error: HTTPException) -> Response:
    """Answer 404 and 405 in JSON."""
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
