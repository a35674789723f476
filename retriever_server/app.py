"""The HTTP application: routes, status codes and nothing else."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response

from . import openapi
from .backends import Engine, load
from .batcher import Batcher, DeadlineError, OverloadedError
from .contract import RequestError, SearchRequest, encode, encode_error, parse
from .metrics import Metrics
from .settings import Settings

log = logging.getLogger("retriever_server")

WATCH_AFTER_S = 0.1  # requests answered sooner need nobody to watch whether the client is still there


class Server:
    """State of one serving process: the engine while it loads, the batcher once it is there."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.batcher: Batcher | None = None
        self.engine: Engine | None = None
        self.progress = "starting"
        self.load_seconds = 0.0
        self.error: BaseException | None = None

    async def load(self) -> None:
        """Open the back end in a thread; /health answers meanwhile."""
        start = time.monotonic()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Engine] = loop.create_future()

        def tell(text: str) -> None:
            self.progress = text

        def work() -> None:
            try:
                engine = load(self.settings, tell)
                loop.call_soon_threadsafe(lambda: None if done.done() else done.set_result(engine))
            except BaseException as error:
                reason = error
                loop.call_soon_threadsafe(lambda: None if done.done() else done.set_exception(reason))

        # A daemon, so that a signal during a long load ends the process at once.
        threading.Thread(target=work, name="load", daemon=True).start()
        self.engine = await done
        self.load_seconds = time.monotonic() - start
        self.batcher = Batcher(
            self.engine, self.metrics, self.settings.max_queue, self.settings.cache_entries
        )
        self.metrics.ready.set(1)
        self.progress = "ready"


def make_app(
    settings: Settings,
    on_ready: Callable[[], None] = lambda: None,
    on_failure: Callable[[], None] = lambda: None,
) -> FastAPI:
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

    app = FastAPI(title="retriever_server", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server

    @app.post("/retrieve", **openapi.retrieve(settings))
    async def retrieve(request: Request) -> Response:
        start = time.perf_counter()
        response = await _retrieve(server, request)
        server.metrics.requests.labels(response.status_code).inc()
        server.metrics.request_seconds.observe(time.perf_counter() - start)
        return response

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


async def _retrieve(server: Server, request: Request) -> Response:
    settings, batcher = server.settings, server.batcher
    try:
        if batcher is None:
            return _error(503, f"not ready: {server.progress}", headers={"Retry-After": "1"})
        asked = parse(await _body(request, settings), settings)
        server.metrics.queries.inc(len(asked.queries))
        server.metrics.truncated.inc(asked.truncated)
        results = await _search_while_connected(batcher, asked, settings.deadline_s, request)
        return Response(encode(results, asked.return_scores), media_type="application/json")
    except RequestError as error:
        return _error(error.status, str(error), error.field)
    except OverloadedError as error:
        return _error(429, str(error), headers={"Retry-After": f"{error.retry_after_s:.0f}"})
    except DeadlineError:
        return _error(504, f"not done after {settings.deadline_s:g} s; the server is overloaded")
    except asyncio.CancelledError:
        raise
    except Exception as error:
        log.exception("the back end failed")
        return _error(500, f"the back end failed: {type(error).__name__}: {error}")


async def _body(request: Request, settings: Settings) -> bytes:
    """The whole body, bounded in size and in the time the client may take.

    Somewhat too large a body is read to its end and dropped: a client that is still sending sees no answer.
    """
    limit, chunks, size = settings.max_body_bytes, [], 0
    too_large = RequestError(413, f"the body is larger than {limit} bytes; send fewer queries a request")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > 4 * limit:
        raise too_large
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > 4 * limit:
                    raise too_large
                if size <= limit:
                    chunks.append(chunk)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {settings.body_timeout_s:g} s") from None
    if size > limit:
        raise too_large
    return b"".join(chunks)


async def _search_while_connected(
    batcher: Batcher, asked: SearchRequest, timeout_s: float, request: Request
) -> Any:
    """Hits for every query; the work is dropped when the client leaves."""
    wanted = [query for query in asked.queries if query]
    if not wanted:
        return [[] for _ in asked.queries]
    search = asyncio.ensure_future(batcher.search(wanted, asked.topk, timeout_s))
    try:
        await asyncio.wait({search}, timeout=WATCH_AFTER_S)
        if not search.done():
            gone = asyncio.ensure_future(request.receive())  # the body is read: only a disconnect can come
            await asyncio.wait({search, gone}, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
        if not search.done():
            raise RequestError(499, "the client left")
        found = iter(search.result())
    finally:
        search.cancel()
    return [next(found) if query else [] for query in asked.queries]


def _error(
    status: int, message: str, field: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    return Response(encode_error(message, field), status, headers, media_type="application/json")
