"""From many requests to few calls of the engine: micro-batching, single-flight, cache, a bounded queue.

No timer: a free worker takes what is queued at once, so that a lone query waits for nobody, and under load
batches grow by themselves while the workers are busy.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from .backends import Engine, Hit
from .metrics import Metrics

Key = tuple[str, int]  # query, topk


class OverloadedError(Exception):
    """The queue is full. ``retry_after_s`` is when it should have room again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class DeadlineError(Exception):
    """The request's time is up; its queries that nobody else waits for are dropped."""


class _Flight:
    """One query on its way to the engine, with everybody who waits for its answer."""

    __slots__ = ("future", "key", "waiters")

    def __init__(self, key: Key, future: asyncio.Future[list[Hit]]) -> None:
        self.key, self.future, self.waiters = key, future, 0


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

    async def search(self, queries: Sequence[str], topk: int, timeout_s: float) -> list[list[Hit]]:
        """Hits for each query, in order.

        Raises:
            OverloadedError: the queue has no room for all of them.
            DeadlineError: not done after ``timeout_s``.
            Exception: whatever the engine raised.
        """
        results: dict[Key, list[Hit]] = {}
        joined: list[_Flight] = []
        keys = [(query, topk) for query in queries]
        distinct = dict.fromkeys(keys)
        for key in distinct:
            if (hits := self._cache.get(key)) is not None:
                self._cache.move_to_end(key)
                results[key] = hits
        missing = [key for key in distinct if key not in results]
        new = sum(key not in self._flights for key in missing)
        if len(self._queue) + new > self._max_queue:
            raise OverloadedError(max(1.0, len(self._queue) * self._seconds_per_query))
        self._metrics.cache_hits.inc(len(keys) - len(missing))
        self._metrics.joined.inc(len(missing) - new)
        for key in missing:
            joined.append(self._join(key))
        self._dispatch()
        try:
            if joined:
                futures = [flight.future for flight in joined]
                _, late = await asyncio.wait(futures, timeout=timeout_s)
                if late:
                    raise DeadlineError
            for flight in joined:
                results[flight.key] = flight.future.result()
        finally:
            self._leave(joined)
        return [results[key] for key in keys]

    @property
    def queued(self) -> int:
        return len(self._queue)

    def _join(self, key: Key) -> _Flight:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(key, asyncio.get_running_loop().create_future())
            self._queue.append(flight)
        flight.waiters += 1
        return flight

    def _leave(self, flights: Iterable[_Flight]) -> None:
        for flight in flights:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.future.done():
                flight.future.cancel()
                self._flights.pop(flight.key, None)

    def _dispatch(self) -> None:
        """Give every free worker its share of the queue."""
        while self._free and self._queue:
            share = min(self._engine.max_batch, -(-len(self._queue) // self._free))
            batch: list[_Flight] = []
            while self._queue and len(batch) < share:
                flight = self._queue.popleft()
                if flight.future.cancelled():
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
                if not flight.future.done():
                    flight.future.set_result(hits)
        except Exception as error:
            self._metrics.backend_errors.inc()
            for flight in batch:
                if not flight.future.done():
                    flight.future.set_exception(error)
                    flight.future.exception()  # read, so that asyncio does not log it once more
        finally:
            took = time.perf_counter() - start
            per_query = took / len(batch) / self._engine.parallelism
            self._seconds_per_query += 0.05 * (per_query - self._seconds_per_query)
            self._metrics.backend_seconds.observe(took)
            self._metrics.batch_size.observe(len(batch))
            for flight in batch:
                if self._flights.get(flight.key) is flight:
                    del self._flights[flight.key]
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
