"""POST /retrieve as a plain ASGI endpoint: building request and response objects would add to the time per query."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.types import Receive, Scope, Send

from .batcher import OverloadedError, PendingAnswers
from .schema import RequestError, SearchRequest, encode, encode_error, parse, request_model
from .state import ServerState

log = logging.getLogger("retriever_server")

WATCH_AFTER_S = 0.1  # only requests that take longer are watched for a disconnect of their client
LATE = "late"  # in the state of a request that did not arrive in time: its client is cut off


class RetrieveEndpoint:
    """Answer POST /retrieve."""

    def __init__(self, server: ServerState) -> None:
        self._server = server
        self._model = request_model(server.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        metrics = self._server.metrics
        status, body, retry_after = await self._answer(receive)
        if status == 499 and scope.get("state", {}).get(LATE):
            status = 408
        metrics.requests("/retrieve", status).inc()
        metrics.request_seconds.observe(time.perf_counter() - start)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if retry_after:
            headers.append((b"retry-after", b"%d" % retry_after))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, receive: Receive) -> tuple[int, bytes, int]:
        """Return status, body, and seconds for Retry-After or 0."""
        settings, batcher, metrics = self._server.settings, self._server.batcher, self._server.metrics
        if batcher is None:
            return 503, encode_error(f"not ready: {self._server.progress}"), 1
        try:
            request = parse(await read_body(receive, settings.max_body_bytes), self._model, settings)
            await self._server.refresh()
            if request.truncated:
                metrics.truncated.inc(request.truncated)
            pending = batcher.submit([query for query in request.queries if query], request.topk)
            metrics.queries.inc(len(request.queries))
            if not pending.future.done():
                await _wait(pending, receive, settings.deadline_s)
            return 200, _encode(request, pending), 0
        except RequestError as error:
            return error.status, encode_error(str(error), error.field), 0
        except OverloadedError as error:
            return 429, encode_error(str(error)), round(error.retry_after_s)
        except Exception as error:
            log.exception("the back end failed")
            return 500, encode_error(f"the back end failed: {type(error).__name__}: {error}"), 0


def _encode(request: SearchRequest, pending: PendingAnswers) -> bytes:
    found = iter(pending.hits())
    return encode([next(found) if query else [] for query in request.queries], request.return_scores)


async def _wait(pending: PendingAnswers, receive: Receive, deadline_s: float) -> None:
    """Wait until the answers are there.

    Raises:
        RequestError: 504 after ``deadline_s``, 499 when the client disconnects. Its queries are abandoned.
    """
    loop = asyncio.get_running_loop()
    watches: list[asyncio.Task[None]] = []

    def start_watch() -> None:
        watches.append(loop.create_task(_watch(pending, receive, deadline_s)))

    timer = loop.call_later(WATCH_AFTER_S, start_watch)
    try:
        await pending.future
    finally:
        timer.cancel()
        for watch in watches:
            watch.cancel()
        pending.abandon()


async def _watch(pending: PendingAnswers, receive: Receive, deadline_s: float) -> None:
    """Fail the request at its deadline, or when its client disconnects: nothing else can follow the body."""
    try:
        await asyncio.wait_for(receive(), deadline_s - WATCH_AFTER_S)
        pending.fail(RequestError(499, "the client left"))
    except TimeoutError:
        pending.fail(RequestError(504, f"not done after {deadline_s:g} s; the server is overloaded"))


async def read_body(receive: Receive, limit: int) -> bytes:
    """Return the whole body. :mod:`.http_protocol` limits how long a client may take to send it.

    A body of up to four times ``limit`` bytes is read to its end and dropped, because a client that is still sending
    does not read an answer.

    Raises:
        RequestError: 413 too large, 499 the client disconnected.
    """
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(499, "the client left")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        more = message.get("more_body", False)
        if size > 4 * limit or (size > limit and not more):
            raise RequestError(413, f"the body is larger than {limit} bytes; send fewer queries a request")
        if not more:
            return b"".join(chunks)
