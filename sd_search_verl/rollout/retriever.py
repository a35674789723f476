"""The retrieval client of a rollout worker: queries coalesced, retried, spread over servers.

It never raises into a rollout: when search is unavailable the result says so, and the counters show it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import aiohttp

from sd_search_verl.errors import UserError

from .answers import Document, parse_answer
from .endpoints import Endpoint, in_order

__all__ = ["Document", "RetrieverClient", "RetrieverStats", "SearchResult"]

COALESCE_S = 0.003  # how long a query waits for company
MAX_BATCH = 64  # queries in one request


@dataclass(frozen=True)
class SearchResult:
    """What one search gave. ``documents`` is None when search was unavailable; ``error`` then says why."""

    documents: list[Document] | None
    latency_s: float
    error: str | None


@dataclass
class RetrieverStats:
    """Counters since the client was made."""

    searches: int = 0
    failures: int = 0
    """Searches without an answer."""
    requests: int = 0
    retries: int = 0
    """Requests after the first for the same queries."""
    throttled: int = 0
    """Answers 429 or 503."""
    timeouts: int = 0
    circuits_opened: int = 0

    def as_dict(self) -> dict[str, int]:
        """Counter name -> value."""
        return dataclasses.asdict(self)


@dataclass
class _Waiting:
    query: str
    future: asyncio.Future[list[Document]]


@dataclass
class _Loop:
    """What belongs to one event loop: sockets and futures cannot cross loops."""

    session: aiohttp.ClientSession
    waiting: list[_Waiting] = field(default_factory=list)
    requests: set[asyncio.Task[None]] = field(default_factory=set)
    flush: asyncio.TimerHandle | None = None


class UnavailableError(Exception):
    """A batch of queries got no answer."""


class _RefusedError(Exception):
    """The server refused the request itself (4xx): sending it again is no use."""


class _TryAgainError(Exception):
    """An attempt failed in a way that another one may mend."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class RetrieverClient:
    """Searches through one or more retrieval servers.

    Args:
        urls: each server's ``…/retrieve``; a bare ``http://host:port`` gets that path.
        top_k: documents per query.
        timeout_s: longest time from a search to its result, retries included.
        max_retries: further rounds over the servers after the first.

    Raises:
        UserError: no URL, or an argument out of range.
    """

    def __init__(self, urls: Sequence[str], top_k: int, timeout_s: float, max_retries: int) -> None:
        if isinstance(urls, str) or not urls:
            raise UserError(f"retriever_urls={urls!r} must be a list with at least one URL")
        if top_k < 1 or timeout_s <= 0 or max_retries < 0:
            raise UserError(
                f"top_k={top_k} and timeout_s={timeout_s} must be positive, max_retries not negative"
            )
        self.endpoints = [Endpoint.at(url) for url in urls]
        self.stats = RetrieverStats()
        self._top_k, self._timeout_s, self._max_retries = top_k, timeout_s, max_retries
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()

    async def search(self, query: str) -> SearchResult:
        """Documents for one query. Never raises (but for the caller's own cancellation)."""
        start = time.monotonic()
        self.stats.searches += 1
        error: str | None = None
        documents: list[Document] | None = None
        try:
            future = self._enqueue(query)
            documents = await asyncio.wait_for(future, self._timeout_s)
        except TimeoutError:
            error = f"no answer within {self._timeout_s:g} s"
            self.stats.timeouts += 1
        except Exception as reason:
            error = str(reason) or type(reason).__name__
        if documents is None:
            self.stats.failures += 1
        return SearchResult(documents, time.monotonic() - start, error)

    async def close(self) -> None:
        """Close this event loop's connections; searches under way end as unavailable."""
        state = self._loops.pop(asyncio.get_running_loop(), None)
        if state is None:
            return
        if state.flush is not None:
            state.flush.cancel()
        for task in state.requests:
            task.cancel()
        if state.requests:
            await asyncio.wait(state.requests)
        for waiting in state.waiting:
            _fail(waiting, UnavailableError("the client was closed"))
        await state.session.close()

    def _enqueue(self, query: str) -> asyncio.Future[list[Document]]:
        loop = asyncio.get_running_loop()
        state = self._loops.get(loop)
        if state is None:
            # Idle connections are dropped before the server drops them, so that none dies under a request.
            connector = aiohttp.TCPConnector(limit=128, keepalive_timeout=30)
            state = self._loops[loop] = _Loop(aiohttp.ClientSession(connector=connector))
        waiting = _Waiting(query, loop.create_future())
        state.waiting.append(waiting)
        if len(state.waiting) >= MAX_BATCH:
            self._flush(state)
        elif state.flush is None:
            state.flush = loop.call_later(COALESCE_S, self._flush, state)
        return waiting.future

    def _flush(self, state: _Loop) -> None:
        if state.flush is not None:
            state.flush.cancel()
            state.flush = None
        batch, state.waiting = state.waiting, []
        if batch:
            task = asyncio.get_running_loop().create_task(self._answer(state, batch))
            state.requests.add(task)
            task.add_done_callback(state.requests.discard)

    async def _answer(self, state: _Loop, batch: list[_Waiting]) -> None:
        """Give every waiting search of the batch its documents or its error."""
        batch = [waiting for waiting in batch if not waiting.future.done()]
        try:
            answers = await self._send(state, batch)
        except _RefusedError as error:
            if len(batch) == 1:
                _fail(batch[0], UnavailableError(str(error)))
            else:  # one bad query must not cost the others their answer
                await asyncio.gather(*(self._answer(state, [waiting]) for waiting in batch))
        except asyncio.CancelledError:
            for waiting in batch:
                _fail(waiting, UnavailableError("the client was closed"))
            raise
        except Exception as error:
            for waiting in batch:
                _fail(waiting, error)
        else:
            for waiting, documents in zip(batch, answers, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(documents)

    async def _send(self, state: _Loop, batch: list[_Waiting]) -> list[list[Document]]:
        """Rounds over the servers until one answers, within the deadline.

        Raises:
            UnavailableError: none answered. _RefusedError: a server refused the queries.
        """
        deadline = time.monotonic() + self._timeout_s
        reason = "no server"
        for round_number in range(self._max_retries + 1):
            wait_s = 0.0
            for attempt, endpoint in enumerate(in_order(self.endpoints)):
                if round_number or attempt:
                    self.stats.retries += 1
                # With a second server to turn to, a hanging one may take at most half of what is left.
                left = deadline - time.monotonic()
                try:
                    return await self._post(
                        state, endpoint, batch, left / (2 if len(self.endpoints) > 1 else 1)
                    )
                except _TryAgainError as error:
                    reason = f"{endpoint.url}: {error}"
                    wait_s = max(wait_s, error.retry_after_s or 0.0)
                if all(waiting.future.done() for waiting in batch):
                    break  # nobody waits any more
            # Pauses grow, all together under half of the deadline: a restarting server is waited for.
            pause = self._timeout_s * 2.0 ** (round_number - self._max_retries - 1) * random.uniform(0.5, 1.0)
            pause = max(pause, wait_s * random.uniform(1.0, 1.2))
            if round_number == self._max_retries or time.monotonic() + pause >= deadline:
                break
            await asyncio.sleep(pause)
        raise UnavailableError(f"search is unavailable: {reason}")

    async def _post(
        self, state: _Loop, endpoint: Endpoint, batch: list[_Waiting], timeout_s: float
    ) -> list[list[Document]]:
        body = {"queries": [w.query for w in batch], "topk": self._top_k, "return_scores": True}
        self.stats.requests += 1
        endpoint.in_flight += 1
        try:
            timeout = aiohttp.ClientTimeout(total=max(timeout_s, 0.01))
            async with state.session.post(endpoint.url, json=body, timeout=timeout) as response:
                if response.status in (429, 503):
                    self.stats.throttled += 1  # busy is not broken: the circuit stays closed
                    raise _TryAgainError(f"HTTP {response.status}", _retry_after(response))
                if 400 <= response.status < 500 and response.status != 408:
                    endpoint.succeeded()
                    raise _RefusedError(
                        f"{endpoint.url}: HTTP {response.status}: {(await response.text())[:300]}"
                    )
                if response.status != 200:
                    raise OSError(f"HTTP {response.status}: {(await response.text())[:300]}")
                answers = parse_answer(json.loads(await response.read()), len(batch))
            endpoint.succeeded()
            return answers
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            self.stats.circuits_opened += endpoint.failed()
            raise _TryAgainError(f"{type(error).__name__}: {error}") from error
        finally:
            endpoint.in_flight -= 1


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        return max(0.0, float(response.headers.get("Retry-After", "0")))
    except ValueError:
        return 1.0  # a date; none of our servers sends one


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)
