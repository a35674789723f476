"""The retrieval client of a rollout worker: it coalesces queries into requests, retries, and fails over.

It never raises into a rollout: an unavailable search is a result with an error, and is counted.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from yarl import URL

from sd_search_verl.errors import on_one_line, without_key
from sd_search_verl.protocol.tools import READ, Tool
from sd_search_verl.retriever_client.answer import MAX_ERROR, read_body, read_start
from sd_search_verl.retriever_client.endpoints import Endpoint, by_preference, document_url
from sd_search_verl.retriever_client.read_tool import read_document
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.retriever_client.request import RejectedError, RetrieverStats, RetryableError, post

COALESCE_S = 0.003  # longest wait of a query for others to share its request
MAX_BATCH = 64  # queries in one request


@dataclass
class _PendingQuery:
    text: str
    future: asyncio.Future[list[Document]]
    sent: bool = False
    """A request had it."""


@dataclass
class _LoopState:
    """State of the client in one event loop: sockets and futures cannot cross loops."""

    session: aiohttp.ClientSession
    pending: list[_PendingQuery] = field(default_factory=list)
    requests: set[asyncio.Task[None]] = field(default_factory=set)
    flush: asyncio.TimerHandle | None = None


class UnavailableError(Exception):
    """No server replied to a batch of queries."""


class _FaultyAnswerError(UnavailableError):
    """In the last round a server answered with a fault: one query of the batch may be the cause."""


class RetrieverClient:
    """Searches through one or more retrieval servers.

    Args:
        urls: each server's ``…/retrieve``; a bare ``http://host:port`` gets that path.
        top_k: documents per query.
        timeout_s: longest time from a search to its result, retries included.
        max_retries: further rounds over the servers after the first; queries that shared a request that servers
            answered with faults get one more round, each alone.

    Raises:
        UserError: a URL is not valid.
    """

    def __init__(self, urls: Sequence[str], top_k: int, timeout_s: float, max_retries: int) -> None:
        self.endpoints = [Endpoint.at(url) for url in urls]
        self.stats = RetrieverStats()
        self._top_k, self._timeout_s, self._max_retries = top_k, timeout_s, max_retries
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopState] = WeakKeyDictionary()

    async def search(self, query: str) -> SearchResult:
        """Return the documents for one query. Never raises, except when the caller is cancelled."""
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
            error = on_one_line(reason)
        if documents is None:
            self.stats.failures += 1
        return SearchResult(documents, time.monotonic() - start, error)

    @property
    def tools(self) -> dict[str, Tool]:
        """The package's tools that ask the server, beside ``search``, by name."""
        return {READ: self.read}

    async def read(self, arguments: Mapping[str, Any]) -> str:
        """Return what the tool ``read`` answers to a call with these arguments. Never raises."""
        return await read_document(arguments, self._fetch)

    async def _fetch(self, document_id: str, wanted: dict[str, int]) -> tuple[int, bytes]:
        """Return status and body of the first server that knows the document, or of the last one asked."""
        state, answer = self._state(), (503, b"{}")
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        for endpoint in by_preference(self.endpoints):
            url = URL(document_url(endpoint.url, document_id), encoded=True)
            endpoint.in_flight += 1
            try:
                async with state.session.post(
                    url, json=wanted, headers=endpoint.headers, timeout=timeout, allow_redirects=False
                ) as response:
                    found = response.status == 200
                    body = await (read_body(response) if found else read_start(response, MAX_ERROR))
                    answer = response.status, body
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
                self.stats.circuits_opened += endpoint.failed()
                continue
            finally:
                endpoint.in_flight -= 1
            if answer[0] in (200, 404, 422):  # it works, also where it does not know the document
                endpoint.succeeded()
            if answer[0] == 200:
                break
        return answer

    async def close(self) -> None:
        """Close this event loop's connections; running searches end as unavailable."""
        state = self._loops.pop(asyncio.get_running_loop(), None)
        if state is None:
            return
        if state.flush is not None:
            state.flush.cancel()
        for task in state.requests:
            task.cancel()
        if state.requests:
            await asyncio.wait(state.requests)
        for query in state.pending:
            _fail(query, UnavailableError("the client was closed"))
        await state.session.close()

    def _enqueue(self, query: str) -> asyncio.Future[list[Document]]:
        loop, state = asyncio.get_running_loop(), self._state()
        pending = _PendingQuery(query, loop.create_future())
        state.pending.append(pending)
        if len(state.pending) >= MAX_BATCH:
            self._flush(state)
        elif state.flush is None:
            state.flush = loop.call_later(COALESCE_S, self._flush, state)
        return pending.future

    def _state(self) -> _LoopState:
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            # Idle connections close before the server closes them, so that no request meets a closed one.
            connector = aiohttp.TCPConnector(limit=128, keepalive_timeout=30)
            self._loops[loop] = _LoopState(aiohttp.ClientSession(connector=connector))
        return self._loops[loop]

    def _flush(self, state: _LoopState) -> None:
        if state.flush is not None:
            state.flush.cancel()
            state.flush = None
        batch, state.pending = state.pending, []
        if batch:
            task = asyncio.get_running_loop().create_task(self._resolve(state, batch))
            state.requests.add(task)
            task.add_done_callback(state.requests.discard)

    async def _resolve(
        self, state: _LoopState, batch: list[_PendingQuery], last_until: float | None = None
    ) -> None:
        """Resolve every pending query of the batch with its documents or its error.

        With ``last_until`` their former batch has failed, and they get one last round, until that time.
        """
        batch = [query for query in batch if not query.future.done()]
        if not batch:
            return
        deadline = time.monotonic() + self._timeout_s
        try:
            if last_until is None:
                replies = await self._send(state, batch, deadline)
            else:
                replies = await self._send_last(state, batch, last_until)
        except (RejectedError, _FaultyAnswerError) as error:
            if len(batch) == 1:
                _fail(batch[0], UnavailableError(str(error)))
            else:  # one bad query must not fail the others
                until = deadline if isinstance(error, _FaultyAnswerError) else None
                await asyncio.gather(*(self._resolve(state, [query], until) for query in batch))
        except asyncio.CancelledError:
            for query in batch:
                _fail(query, UnavailableError("the client was closed"))
            raise
        except Exception as error:
            for query in batch:
                _fail(query, error)
        else:
            for query, documents in zip(batch, replies, strict=True):
                if not query.future.done():
                    query.future.set_result(documents)

    async def _send(
        self, state: _LoopState, batch: list[_PendingQuery], deadline: float
    ) -> list[list[Document]]:
        """Try the servers in rounds until one replies, within the deadline.

        Raises:
            UnavailableError: no server replied.
            RejectedError: a server rejected the queries.
        """
        for round_number in itertools.count():
            try:
                return await self._round(state, batch, by_preference(self.endpoints), deadline)
            except RetryableError as error:
                failed = error
            # A server that refuses connections may be one that restarts: it is asked as long as the deadline lasts.
            if round_number >= self._max_retries and not (failed.refused and self._max_retries):
                break
            # Pauses double, and without such a server sum to less than half of the deadline.
            exponent = min(round_number, self._max_retries - 1) - self._max_retries - 1
            pause = self._timeout_s * 2.0**exponent * random.uniform(0.5, 1.0)
            pause = max(pause, (failed.retry_after_s or 0.0) * random.uniform(1.0, 1.2))
            if time.monotonic() + pause >= deadline:
                break
            await asyncio.sleep(pause)
        kind = _FaultyAnswerError if failed.faulty else UnavailableError
        raise kind(f"search is unavailable: {failed}")

    async def _send_last(
        self, state: _LoopState, batch: list[_PendingQuery], deadline: float
    ) -> list[list[Document]]:
        """Try each server once, with a query whose batch has failed.

        Raises:
            UnavailableError: no server replied.
            RejectedError: a server rejected the query.
        """
        # The batch has counted its failures, and may by that have opened the circuit of a server that works: servers
        # with open circuits are asked too, and a failure is not counted again for every query.
        usable = by_preference(self.endpoints)
        others = [endpoint for endpoint in self.endpoints if endpoint not in usable]
        try:
            return await self._round(state, batch, usable + others, deadline, counted=False)
        except RetryableError as error:
            raise UnavailableError(f"search is unavailable: {error}") from error

    async def _round(
        self,
        state: _LoopState,
        batch: list[_PendingQuery],
        endpoints: list[Endpoint],
        deadline: float,
        counted: bool = True,
    ) -> list[list[Document]]:
        """Try the servers one after another until one replies; failures open circuits if they are ``counted``.

        Raises:
            RetryableError: no server replied.
            RejectedError: a server rejected the queries.
        """
        reason, wait_s, faulty, refused = "no server", 0.0, False, True
        for endpoint in endpoints:
            # Where there is another server, one that hangs may take at most half of the time left.
            left = (deadline - time.monotonic()) / (2 if len(self.endpoints) > 1 else 1)
            try:
                return await self._post(state, endpoint, batch, left)
            except RetryableError as error:
                reason, faulty = f"{without_key(endpoint.url)}: {error}", faulty or error.faulty
                refused = refused and error.refused
                wait_s = max(wait_s, error.retry_after_s or 0.0)
                # A busy server works, so its circuit stays closed.
                if counted and error.retry_after_s is None:
                    self.stats.circuits_opened += endpoint.failed()
            if all(query.future.done() for query in batch):
                break  # all callers were cancelled or timed out
        raise RetryableError(reason, wait_s, faulty, refused)

    async def _post(
        self, state: _LoopState, endpoint: Endpoint, batch: list[_PendingQuery], timeout_s: float
    ) -> list[list[Document]]:
        self.stats.retries += batch[0].sent  # a batch is sent as a whole, or parted after that
        for query in batch:
            query.sent = True
        texts = [query.text for query in batch]
        return await post(state.session, endpoint, texts, self._top_k, timeout_s, self.stats)


def _fail(query: _PendingQuery, error: Exception) -> None:
    if not query.future.done():
        query.future.set_exception(error)
