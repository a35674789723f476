"""POST /retrieve, straight on ASGI: the one route where the framework's own work per request would show."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.types import Receive, Send

from .batcher import OverloadedError, Pending
from .schema import RequestError, SearchRequest, encode, encode_error, parse
from .state import Server

log = logging.getLogger("retriever_server")

WATCH_AFTER_S = 0.1  # requests answered sooner need nobody to watch whether the client is still there


class Retrieve:
    """Answers POST /retrieve."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def __call__(self, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        metrics = self._server.metrics
        status, body, retry_after = await self._answer(receive)
        metrics.requests(status).inc()
        metrics.request_seconds.observe(time.perf_counter() - start)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if retry_after:
            headers.append((b"retry-after", b"%d" % retry_after))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, receive: Receive) -> tuple[int, bytes, int]:
        """(status, body, seconds for Retry-After or 0)."""
        settings, batcher, metrics = self._server.settings, self._server.batcher, self._server.metrics
        if batcher is None:
            return 503, encode_error(f"not ready: {self._server.progress}"), 1
        try:
            asked = parse(await read_body(receive, settings.max_body_bytes), settings)
            metrics.queries.inc(len(asked.queries))
            if asked.truncated:
                metrics.truncated.inc(asked.truncated)
            wanted = [query for query in asked.queries if query]
            pending = batcher.submit(wanted, asked.topk)
            if not pending.future.done():
                await _wait(pending, receive, settings.deadline_s)
            return 200, _encode(asked, pending), 0
        except RequestError as error:
            return error.status, encode_error(str(error), error.field), 0
        except OverloadedError as error:
            return 429, encode_error(str(error)), round(error.retry_after_s)
        except Exception as error:
            log.exception("the back end failed")
            return 500, encode_error(f"the back end failed: {type(error).__name__}: {error}"), 0


def _encode(asked: SearchRequest, pending: Pending) -> bytes:
    found = iter(pending.hits())
    return encode([next(found) if query else [] for query in asked.queries], asked.return_scores)


async def _wait(pending: Pending, receive: Receive, deadline_s: float) -> None:
    """Until the answers are there.

    Raises:
        RequestError: 504 after ``deadline_s``, 499 when the client left. The work is dropped then.
    """
    loop = asyncio.get_running_loop()
    watches: list[asyncio.Task[None]] = []
    timer = loop.call_later(
        WATCH_AFTER_S, lambda: watches.append(loop.create_task(_watch(pending, receive, deadline_s)))
    )
    try:
        await pending.future
    finally:
        timer.cancel()
        for watch in watches:
            watch.cancel()
        pending.leave()


async def _watch(pending: Pending, receive: Receive, deadline_s: float) -> None:
    """Fail the request when its time is up or its client leaves: nothing else can come after the body."""
    try:
        await asyncio.wait_for(receive(), deadline_s - WATCH_AFTER_S)
        pending.failed(RequestError(499, "the client left"))
    except TimeoutError:
        pending.failed(RequestError(504, f"not done after {deadline_s:g} s; the server is overloaded"))


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body. How long a client may take for it is the protocol's business (:mod:`.guard`).

    Somewhat too large a body is read to its end and dropped: a client that is still sending sees no answer.

    Raises:
        RequestError: 413 too large, 499 the client left.
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
