"""Clients that ask again and again share batches; a lone one waits for nobody."""

import asyncio
import math
import re
import time
from collections.abc import Sequence

import pytest

from retriever_server.backends.base import Hit
from retriever_server.batcher import Batcher
from retriever_server.errors import RetrieverError
from retriever_server.metrics import Metrics


class SlowEngine:
    """Takes as long for one query as for many, as a scan of many vectors does."""

    parallelism, max_batch, passages, version = 1, 64, 1, "1"

    def __init__(self, seconds: float) -> None:
        self.seconds, self.sizes = seconds, list[int]()

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
        self.sizes.append(len(queries))
        time.sleep(self.seconds)
        return [[Hit(query.encode(), 1.0)] for query in queries]

    def refresh(self) -> None: ...

    def close(self) -> None: ...


def run(engine: SlowEngine, clients: int, rounds: int) -> float:
    """Seconds until every client has had ``rounds`` answers, one after the other."""

    async def client(batcher: Batcher, name: int) -> None:
        for number in range(rounds):
            query = f"{name} {number}"
            pending = batcher.submit([query], 3)
            await pending.future
            assert pending.hits() == [[Hit(query.encode(), 1.0)]]

    async def all_clients() -> float:
        batcher = Batcher(engine, Metrics(), max_queue=100, cache_entries=0)
        start = time.perf_counter()
        await asyncio.gather(*(client(batcher, name) for name in range(clients)))
        took = time.perf_counter() - start
        await batcher.close()
        return took

    return asyncio.run(all_clients())


def test_clients_that_ask_again_share_batches() -> None:
    engine = SlowEngine(0.4)
    run(engine, clients=16, rounds=4)
    assert sum(engine.sizes) == 64
    assert sum(size < 15 for size in engine.sizes) <= 2  # the very first query and what is left at the end


def test_a_lone_client_waits_for_nobody() -> None:
    engine = SlowEngine(0.2)
    assert run(engine, clients=1, rounds=5) < 1.5  # five times 0.2 s
    assert engine.sizes == [1] * 5


def test_leaving_clients_of_equal_queries_are_forgotten_at_once() -> None:
    """Each looked for itself, once for every query, among all that waited: 100 requests of 10 KB took minutes."""

    async def leave() -> float:
        batcher = Batcher(SlowEngine(0.1), Metrics(), max_queue=100, cache_entries=0)
        waiting = [batcher.submit(["castle"] * 1024, 3) for _ in range(20)]
        start = time.perf_counter()
        for pending in reversed(waiting[1:]):
            pending.abandon()
        took = time.perf_counter() - start
        await waiting[0].future
        assert waiting[0].hits() == [[Hit(b"castle", 1.0)]] * 1024
        assert not any(pending.future.done() for pending in waiting[1:])
        await batcher.close()
        return took

    assert asyncio.run(leave()) < 0.5


def test_an_answer_that_was_under_way_when_answers_are_forgotten_is_not_cached() -> None:
    engine = SlowEngine(0.1)

    async def twice() -> None:
        batcher = Batcher(engine, Metrics(), max_queue=100, cache_entries=10)
        for _ in range(3):
            pending = batcher.submit(["castle"], 3)
            if len(engine.sizes) < 2:
                await asyncio.sleep(0.05)
                batcher.forget()
            await pending.future
        await batcher.close()

    asyncio.run(twice())
    assert engine.sizes == [1, 1, 1]


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([[3.0, 2.0, 1.0], [2.0, 1.0]], "3 hits for topk=2. Fix: return at most topk"),
        ([[2.0, 1.0]], "1 lists of hits for 2 queries"),
        ([[1.0, 2.0], []], "scores 1, 2 of 'a'. Fix: finite ones, the best hit first"),
        ([[1.0], [math.nan]], "scores nan of 'b'"),
        ([[math.inf, 1.0], []], "scores inf, 1 of 'a'"),
        ([[1.0, -math.inf], []], "scores 1, -inf of 'a'"),
    ],
)
def test_hits_that_an_engine_may_not_return_are_an_error(scores: list[list[float]], says: str) -> None:
    """Sent on, they would be other documents than the best for the model, or a null for a score."""

    class Engine(SlowEngine):
        def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
            return [[Hit(b"{}", score) for score in hits] for hits in scores]

    async def ask() -> None:
        batcher = Batcher(Engine(0), Metrics(), max_queue=100, cache_entries=10)
        pending = batcher.submit(["a", "b"], 2)
        try:
            await pending.future
        finally:
            await batcher.close()

    with pytest.raises(RetrieverError, match=re.escape(says)):
        asyncio.run(ask())
