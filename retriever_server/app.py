"""The HTTP application: routes, status codes and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from . import openapi
from .endpoint import Retrieve
from .settings import Settings
from .state import Server


class Application(FastAPI):
    """FastAPI, but the one route where its own work per request would show does not pass through it."""

    state: Any

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/retrieve" and scope["method"] == "POST":
            await self.state.retrieve(receive, send)
        else:
            await super().__call__(scope, receive, send)


def make_app(
    settings: Settings,
    on_ready: Callable[[], None] = lambda: None,
    on_failure: Callable[[], None] = lambda: None,
) -> Application:
    """The application for one process.

    Args:
        on_ready: called once /retrieve is served.
        on_failure: called when the back end cannot be opened; ``app.state.server.error`` is then the reason.
    """
    server = Server(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def load_and_tell() -> None:
            try:
                await server.load()
                on_ready()
            except Exception as error:
                server.error = error
                on_failure()

        loading = asyncio.create_task(load_and_tell())
        yield
        loading.cancel()
        if server.batcher is not None:
            await server.batcher.close()

    app = Application(title="retriever_server", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server, app.state.retrieve = server, Retrieve(server)

    @app.post("/retrieve", **openapi.retrieve(settings))
    async def retrieve(request: Request) -> Response:
        """Documents the route; :class:`Application` gives it to :class:`Retrieve`."""
        raise AssertionError("FastAPI never sees this route")

    @app.get("/health", summary="200 while the process lives", responses=openapi.HEALTH)
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="200 once /retrieve is served, 503 before", responses=openapi.READY)
    async def ready() -> Response:
        body: dict[str, Any] = {"status": server.progress, "backend": settings.backend}
        if server.engine is None:
            return openapi.json_response(body, 503, {"Retry-After": "1"})
        body |= {"passages": server.engine.passages, "version": server.engine.version}
        return openapi.json_response(body | {"load_seconds": round(server.load_seconds, 3)}, 200)

    @app.get("/metrics", summary="Prometheus metrics", responses=openapi.METRICS)
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    return app
