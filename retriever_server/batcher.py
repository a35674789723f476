"""From many requests to few calls of the engine: micro-batching, single-flight, cache, a bounded queue.

No timer: a free worker takes what is queued at once, so that a lone query waits for nobody, and under load
batches grow by themselves while the workers are busy.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from .backends import Engine, Hit
from .metrics import Metrics

Key = tuple[str, int]  # query, topk


class OverloadedError(Exception):
    """The queue is full. ``retry_after_s`` is when it should have room again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class Pending:
    """The answers one request waits for. ``future`` is done when all are there, or raises what went wrong."""

    __slots__ = ("_flights", "_keys", "_missing", "_results", "future")

    def __init__(self, keys: list[Key], future: asyncio.Future[None]) -> None:
        self.future = future
        self._keys = keys
        self._results: dict[Key, list[Hit]] = {}
        self._flights: list[_Flight] = []
        self._missing = 0

    def hits(self) -> list[list[Hit]]:
        """For each query its hits, in order."""
        return [self._results[key] for key in self._keys]

    def leave(self) -> None:
        """Wait no more. Queries that nobody else waits for are dropped where they are still queued."""
        for flight in self._flights:
            flight.waiters.remove(self)
        self._flights.clear()

    def join(self, flight: _Flight) -> None:
        flight.waiters.append(self)
        self._flights.append(flight)
        self._missing += 1

    def deliver(self, key: Key, hits: list[Hit]) -> None:
        self._results[key] = hits

    def landed(self, key: Key, hits: list[Hit]) -> None:
        self._results[key] = hits
        self._missing -= 1
        if self._missing == 0 and not self.future.done():
            self._flights.clear()
            self.future.set_result(None)

    def failed(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Flight:
    """One query on its way to the engine, with everybody who waits for its answer."""

    __slots__ = ("key", "waiters")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.waiters: list[Pending] = []


class Batcher:
    """Answers queries through one engine. Lives on one event loop."""

    def __init__(self, engine: Engine, metrics: Metrics, max_queue: int, cache_entries: int) -> None:
        self._engine, self._metrics = engine, metrics
        self._max_queue, self._cache_entries = max_queue, cache_entries
        self._cache: OrderedDict[Key, list[Hit]] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}
        self._queue: deque[_Flight] = deque()
        self._free = engine.parallelism
        self._threads = ThreadPoolExecutor(engine.parallelism, thread_name_prefix="search")
        self._batches: set[asyncio.Task[None]] = set()
        self._seconds_per_query = 0.001  # moving average of the engine, over all workers

    def submit(self, queries: Sequence[str], topk: int) -> Pending:
        """Start answering; the caller awaits the result's ``future``, and calls ``leave`` when it is through.

        Raises:
            OverloadedError: the queue has no room for all of the queries.
        """
        keys = [(query, topk) for query in queries]
        pending = Pending(keys, asyncio.get_running_loop().create_future())
        missing = []
        for key in dict.fromkeys(keys):
            if (hits := self._cache.get(key)) is not None:
                self._cache.move_to_end(key)
                pending.deliver(key, hits)
            else:
                missing.append(key)
        new = sum(key not in self._flights for key in missing)
        if len(self._queue) + new > self._max_queue:
            raise OverloadedError(max(1.0, len(self._queue) * self._seconds_per_query))
        self._metrics.cache_hits.inc(len(keys) - len(missing))
        self._metrics.joined.inc(len(missing) - new)
        for key in missing:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = _Flight(key)
                self._queue.append(flight)
            pending.join(flight)
        if missing:
            self._dispatch()
        else:
            pending.future.set_result(None)
        return pending

    def _dispatch(self) -> None:
        """Give every free worker its share of the queue."""
        while self._free and self._queue:
            share = min(self._engine.max_batch, -(-len(self._queue) // self._free))
            batch: list[_Flight] = []
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
                task = asyncio.get_running_loop().create_task(self._run(batch))
                self._batches.add(task)
                task.add_done_callback(self._batches.discard)
        self._metrics.queued.set(len(self._queue))

    async def _run(self, batch: list[_Flight]) -> None:
        queries, topk = [flight.key[0] for flight in batch], batch[0].key[1]
        start = time.perf_counter()
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._engine.search, queries, topk
            )
            for flight, hits in zip(batch, found, strict=True):
                self._remember(flight.key, hits)
                for pending in flight.waiters:
                    pending.landed(flight.key, hits)
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
            self._dispatch()

    def _remember(self, key: Key, hits: list[Hit]) -> None:
        if self._cache_entries:
            self._cache[key] = hits
            self._cache.move_to_end(key)
            if len(self._cache) > self._cache_entries:
                self._cache.popitem(last=False)

    async def close(self) -> None:
        """Wait for the calls under way and give the engine back."""
        if self._batches:
            await asyncio.wait(self._batches)
        self._threads.shutdown(wait=True)
        self._engine.close()
