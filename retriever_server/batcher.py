"""From many requests to few calls of the engine: micro-batching, single-flight, cache, a bounded queue.

A free worker takes what is queued at once, so that a lone query waits for nobody, and under load batches grow by
themselves while the workers are busy. Only just after a long batch it waits a moment: its clients are about to ask
again, and taking the first of them alone would turn 64 clients into batches of 1 and 63 in turns.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from .backends import Engine, Hit
from .metrics import Metrics

GATHER = 0.05  # share of a long batch's time that is waited for as many queries as it had
GATHER_FROM_S = 0.05  # a batch that took longer is long: an engine so slow costs much even for one query

Key = tuple[str, int]  # query, topk


class OverloadedError(Exception):
    """The queue is full. ``retry_after_s`` is when it should have room again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class _InFlightQuery:
    """One query on its way to the engine, with everybody who waits for it. Landed, it is the answer."""

    __slots__ = ("hits", "key", "waiters")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.waiters: list[Pending] = []
        self.hits: list[Hit] | None = None

    def land(self, hits: list[Hit]) -> None:
        self.hits = hits
        for pending in self.waiters:
            pending.landed()
        self.waiters.clear()


class Pending:
    """The answers one request waits for. ``future`` is done when all are there, or raises what went wrong."""

    __slots__ = ("_flights", "_missing", "future")

    def __init__(self, flights: list[_InFlightQuery], future: asyncio.Future[None]) -> None:
        self.future = future
        self._flights = flights
        self._missing = 0
        for flight in flights:
            if flight.hits is None:
                flight.waiters.append(self)
                self._missing += 1
        if self._missing == 0:
            future.set_result(None)

    def hits(self) -> list[list[Hit]]:
        """For each query its hits, in order."""
        return [flight.hits or [] for flight in self._flights]

    def leave(self) -> None:
        """Wait no more. Queries that nobody else waits for are dropped where they are still queued."""
        for flight in self._flights:
            if self in flight.waiters:
                flight.waiters.remove(self)

    def landed(self) -> None:
        self._missing -= 1
        if self._missing == 0 and not self.future.done():
            self.future.set_result(None)

    def failed(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Batcher:
    """Answers queries through one engine. Lives on the event loop that makes it."""

    def __init__(self, engine: Engine, metrics: Metrics, max_queue: int, cache_entries: int) -> None:
        self._engine, self._metrics = engine, metrics
        self._loop = asyncio.get_running_loop()
        self._max_queue, self._cache_entries = max_queue, cache_entries
        self._cache: OrderedDict[Key, _InFlightQuery] = OrderedDict()
        self._flights: dict[Key, _InFlightQuery] = {}
        self._queue: deque[_InFlightQuery] = deque()
        self._free = engine.parallelism
        self._threads = ThreadPoolExecutor(engine.parallelism, thread_name_prefix="search")
        self._batches: set[asyncio.Task[None]] = set()
        self._enough = 0  # queued queries for which nobody waits longer
        self._seconds_per_query = 0.001  # moving average of the engine, over all workers
        metrics.queued.set_function(lambda: len(self._queue))

    def submit(self, queries: Sequence[str], topk: int) -> Pending:
        """Start answering; the caller awaits the result's ``future``, and calls ``leave`` when it is through.

        Raises:
            OverloadedError: the queue has no room for all of the queries.
        """
        keys = [(query, topk) for query in queries]
        flights: dict[Key, _InFlightQuery] = {}
        new: list[_InFlightQuery] = []
        for key in keys:
            if key in flights:
                continue
            if (flight := self._cache.get(key)) is not None:
                self._cache.move_to_end(key)
            elif (flight := self._flights.get(key)) is None:
                flight = _InFlightQuery(key)
                new.append(flight)
            flights[key] = flight
        if len(self._queue) + len(new) > self._max_queue:
            raise OverloadedError(max(1.0, len(self._queue) * self._seconds_per_query))
        missing = sum(flight.hits is None for flight in flights.values())
        self._metrics.cache_hits.inc(len(keys) - missing)
        self._metrics.joined.inc(missing - len(new))
        pending = Pending([flights[key] for key in keys], self._loop.create_future())
        if new:
            self._flights.update((flight.key, flight) for flight in new)
            self._queue.extend(new)
            self._dispatch()
        return pending

    def _dispatch(self) -> None:
        """Give every free worker its share of the queue."""
        if len(self._queue) < self._enough:
            return
        self._enough = 0
        while self._free and self._queue:
            share = min(self._engine.max_batch, -(-len(self._queue) // self._free))
            batch: list[_InFlightQuery] = []
            while self._queue and len(batch) < share:
                flight = self._queue.popleft()
                if not flight.waiters:
                    self._flights.pop(flight.key, None)
                    self._metrics.cancelled.inc()
                elif batch and flight.key[1] != batch[0].key[1]:
                    self._queue.appendleft(flight)  # one topk a call
                    break
                else:
                    batch.append(flight)
            if batch:
                self._free -= 1
                task = self._loop.create_task(self._run(batch))
                self._batches.add(task)
                task.add_done_callback(self._batches.discard)

    async def _run(self, batch: list[_InFlightQuery]) -> None:
        queries, topk = [flight.key[0] for flight in batch], batch[0].key[1]
        start = time.perf_counter()
        try:
            found = await self._loop.run_in_executor(self._threads, self._engine.search, queries, topk)
            for flight, hits in zip(batch, found, strict=True):
                flight.land(hits)
                self._remember(flight)
        except Exception as error:
            self._metrics.backend_errors.inc()
            for flight in batch:
                for pending in flight.waiters:
                    pending.failed(error)
        finally:
            took = time.perf_counter() - start
            per_query = took / len(batch) / self._engine.parallelism
            self._seconds_per_query += 0.05 * (per_query - self._seconds_per_query)
            self._metrics.backend_seconds.observe(took)
            self._metrics.batch_size.observe(len(batch))
            for flight in batch:
                self._flights.pop(flight.key, None)
            self._free += 1
            self._gather(len(batch), took)

    def _gather(self, size: int, took: float) -> None:
        """Dispatch once ``size`` queries are there, the last batch's number, or a little later."""

        def stop() -> None:
            self._enough = 0
            self._dispatch()

        if size > 1 and took > GATHER_FROM_S:
            self._enough = size
            self._loop.call_later(GATHER * took, stop)
        self._dispatch()

    def _remember(self, flight: _InFlightQuery) -> None:
        if self._cache_entries:
            self._cache[flight.key] = flight
            self._cache.move_to_end(flight.key)
            if len(self._cache) > self._cache_entries:
                self._cache.popitem(last=False)

    async def close(self) -> None:
        """Wait for the calls under way and give the engine back."""
        if self._batches:
            await asyncio.wait(self._batches)
        self._threads.shutdown(wait=True)
        self._engine.close()
