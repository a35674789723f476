"""Micro-batching: many requests share few calls of the engine. Also single-flight, an LRU cache and a bounded queue.

A free worker takes the queued queries at once, without a timer: a single query does not wait, and batches grow under
load because queries queue while the workers are busy. After a long batch only, the dispatcher waits a moment for the
clients of that batch to send their next queries; otherwise 64 clients would alternate between batches of 1 and 63.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from .backends.base import Engine, Hit, search
from .errors import RetrieverError
from .metrics import Metrics

REBATCH_WAIT_SHARE = 0.05  # longest wait after a long batch for as many queries, as a share of its duration
LONG_BATCH_S = 0.05  # a batch that takes longer is long: such an engine is slow even for one query

Key = tuple[str, int]  # query, topk


class OverloadedError(RetrieverError):
    """The queue is full. ``retry_after_s`` is the expected time until it has room."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class _InFlightQuery:
    """An in-flight query and the requests waiting for it; holds the hits once resolved."""

    __slots__ = ("hits", "key", "waiters")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.waiters: set[PendingAnswers] = set()
        self.hits: list[Hit] | None = None

    def resolve(self, hits: list[Hit]) -> None:
        self.hits = hits
        for pending in self.waiters:
            pending._on_resolved()
        self.waiters.clear()


class PendingAnswers:
    """Answers that one request waits for. ``future`` is done when all have arrived, or raises the error."""

    __slots__ = ("_entries", "_missing", "future")

    def __init__(self, entries: list[_InFlightQuery], future: asyncio.Future[None]) -> None:
        self.future = future
        self._entries = entries
        missing = {entry for entry in entries if entry.hits is None}
        self._missing = len(missing)
        for entry in missing:
            entry.waiters.add(self)
        if not missing:
            future.set_result(None)

    def hits(self) -> list[list[Hit]]:
        """Return the hits of each query, in order."""
        return [entry.hits or [] for entry in self._entries]

    def abandon(self) -> None:
        """Stop waiting. Queued queries without other waiters are cancelled."""
        for entry in self._entries:
            entry.waiters.discard(self)

    def _on_resolved(self) -> None:
        self._missing -= 1
        if self._missing == 0 and not self.future.done():
            self.future.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Batcher:
    """Answer queries through one engine. Belongs to the event loop it is created in."""

    def __init__(self, engine: Engine, metrics: Metrics, max_queue: int, cache_entries: int) -> None:
        self._engine, self._metrics = engine, metrics
        self._loop = asyncio.get_running_loop()
        self._max_queue, self._cache_entries = max_queue, cache_entries
        self._cache: OrderedDict[Key, _InFlightQuery] = OrderedDict()
        self._in_flight: dict[Key, _InFlightQuery] = {}
        self._queue: deque[_InFlightQuery] = deque()
        self._free = engine.parallelism
        self._threads = ThreadPoolExecutor(engine.parallelism, thread_name_prefix="search")
        self._batches: set[asyncio.Task[None]] = set()
        self._wait_for = 0  # dispatch waits until so many queries are queued
        self._seconds_per_query = 0.001  # moving average over all workers
        metrics.queued.set_function(lambda: len(self._queue))

    def submit(self, queries: Sequence[str], topk: int) -> PendingAnswers:
        """Queue the queries; the caller awaits the result's ``future``, and calls ``abandon()`` when it stops waiting.

        Raises:
            OverloadedError: the queue has no room for all of the queries.
        """
        asked: list[_InFlightQuery] = []
        entries: dict[Key, _InFlightQuery] = {}
        new: list[_InFlightQuery] = []
        repeated = 0
        for query in queries:
            key = (query, topk)
            if (entry := entries.get(key)) is not None:
                repeated += 1
            elif (entry := self._cache.get(key)) is not None:
                self._cache.move_to_end(key)
                repeated += 1
            elif (entry := self._in_flight.get(key)) is None:
                entry = _InFlightQuery(key)
                new.append(entry)
            entries[key] = entry
            asked.append(entry)
        if len(self._queue) + len(new) > self._max_queue:
            raise OverloadedError(max(1.0, len(self._queue) * self._seconds_per_query))
        if repeated:
            self._metrics.cache_hits.inc(repeated)
        if joined := len(asked) - repeated - len(new):
            self._metrics.joined.inc(joined)
        pending = PendingAnswers(asked, self._loop.create_future())
        if new:
            for entry in new:
                self._in_flight[entry.key] = entry
            self._queue.extend(new)
            self._dispatch()
        return pending

    def _dispatch(self) -> None:
        """Give each free worker an equal share of the queue."""
        if len(self._queue) < self._wait_for:
            return
        self._wait_for = 0
        while self._free and self._queue:
            share = min(self._engine.max_batch, -(-len(self._queue) // self._free))
            batch: list[_InFlightQuery] = []
            while self._queue and len(batch) < share:
                entry = self._queue.popleft()
                if not entry.waiters:
                    self._in_flight.pop(entry.key, None)
                    self._metrics.cancelled.inc()
                elif batch and entry.key[1] != batch[0].key[1]:
                    self._queue.appendleft(entry)  # a call has one topk
                    break
                else:
                    batch.append(entry)
            if batch:
                self._free -= 1
                task = self._loop.create_task(self._run(batch))
                self._batches.add(task)
                task.add_done_callback(self._batches.discard)

    async def _run(self, batch: list[_InFlightQuery]) -> None:
        queries, topk = [entry.key[0] for entry in batch], batch[0].key[1]
        cache, start = self._cache, time.perf_counter()
        try:
            found = await self._loop.run_in_executor(self._threads, search, self._engine, queries, topk)
            for entry, hits in zip(batch, found, strict=True):
                entry.resolve(hits)
                self._cache_answer(cache, entry)
        except Exception as error:
            self._metrics.backend_errors.inc()
            for entry in batch:
                for pending in entry.waiters:
                    pending.fail(error)
        finally:
            took = time.perf_counter() - start
            per_query = took / len(batch) / self._engine.parallelism
            self._seconds_per_query += 0.05 * (per_query - self._seconds_per_query)
            self._metrics.backend_seconds.observe(took)
            self._metrics.batch_size.observe(len(batch))
            for entry in batch:
                self._in_flight.pop(entry.key, None)
            self._free += 1
            self._rebatch(len(batch), took)

    def _rebatch(self, size: int, took: float) -> None:
        """Dispatch; after a long batch wait for as many queries as it had, ``size``, or a short time."""

        def stop() -> None:
            self._wait_for = 0
            self._dispatch()

        if size > 1 and took > LONG_BATCH_S:
            self._wait_for = size
            self._loop.call_later(REBATCH_WAIT_SHARE * took, stop)
        self._dispatch()

    def _cache_answer(self, cache: OrderedDict[Key, _InFlightQuery], entry: _InFlightQuery) -> None:
        if self._cache_entries:
            cache[entry.key] = entry
            cache.move_to_end(entry.key)
            if len(cache) > self._cache_entries:
                cache.popitem(last=False)

    def forget(self) -> None:
        """Drop the cached answers; those under way go to the requests that wait for them, and to no others."""
        self._cache, self._in_flight = OrderedDict(), {}

    async def close(self) -> None:
        """Wait for the running calls, then close the engine."""
        if self._batches:
            await asyncio.wait(self._batches)
        self._threads.shutdown(wait=True)
        self._engine.close()
