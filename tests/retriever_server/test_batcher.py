"""Clients that ask again and again share batches; a lone one waits for nobody."""

import asyncio
import time
from collections.abc import Sequence

from retriever_server.backends.base import Hit
from retriever_server.batcher import Batcher
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
