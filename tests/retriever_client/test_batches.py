"""Queries that share a request: one bad query does not cost the others."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from support.small_servers import Handler, answer, client, cut_off, error_500, good, hangs, server


def test_one_refused_query_does_not_cost_the_others() -> None:
    async def handler(request: web.Request) -> web.Response:
        queries = (await request.json())["queries"]
        return web.json_response({"error": "bad"}, status=422) if "bad" in queries else answer(queries)

    async def main() -> None:
        async with server(handler) as url, client(url) as retriever:
            first, bad, last = await asyncio.gather(*map(retriever.search, ["x", "bad", "y"]))
            good(first, "a:x")
            good(last, "a:y")
            assert bad.documents is None
            assert "HTTP 422" in (bad.error or "")
            assert retriever.stats.requests == 4

    asyncio.run(main())


async def _breaks_on_bad(request: web.Request) -> web.StreamResponse:
    queries = (await request.json())["queries"]
    return web.Response(status=500, text="broken") if "bad" in queries else answer(queries)


async def _no_contents_for_bad(request: web.Request) -> web.StreamResponse:
    queries = (await request.json())["queries"]
    contents = [None if query == "bad" else f"a:{query}" for query in queries]
    return web.json_response({"result": [[{"id": "1", "contents": text}] for text in contents]})


@pytest.mark.parametrize(
    ("handler", "says"), [(_breaks_on_bad, "HTTP 500"), (_no_contents_for_bad, "malformed reply")]
)
def test_one_query_that_breaks_a_server_does_not_cost_the_others(handler: Handler, says: str) -> None:
    async def main() -> None:
        async with server(handler) as url, client(url, timeout_s=2.0, max_retries=2) as retriever:
            first, bad, last = await asyncio.gather(*map(retriever.search, ["x", "bad", "y"]))
            good(first, "a:x")
            good(last, "a:y")
            assert bad.documents is None
            assert says in (bad.error or "")
            stats = retriever.stats
            assert (stats.searches, stats.failures, stats.timeouts) == (3, 1, 0)
            assert (stats.requests, stats.retries) == (3 + 3, 2 + 3), (
                "three rounds, and each query alone once"
            )
            assert retriever.endpoints[0].open_until == 0.0, "the server works for the other queries"

    asyncio.run(main())


def test_queries_alone_are_asked_of_every_server() -> None:
    """Both circuits are open by then, the one of the working server by the bad query alone."""

    async def main() -> None:
        async with (
            server(error_500) as broken,
            server(_breaks_on_bad) as works,
            client(broken, works, timeout_s=4.0) as retriever,
        ):
            for _ in range(3):
                results = await asyncio.gather(*map(retriever.search, ["x", "bad", "y"]))
                good(results[0], "a:x")
                good(results[2], "a:y")
                assert results[1].documents is None
            assert retriever.stats.failures == 3

    asyncio.run(main())


def test_a_server_that_breaks_on_every_query_is_asked_for_each_alone_once() -> None:
    async def main() -> None:
        async with server(error_500) as url, client(url, timeout_s=1.0, max_retries=2) as retriever:
            results = await asyncio.gather(*(retriever.search(f"q{i}") for i in range(10)))
            assert all(result.documents is None and result.latency_s < 1.0 for result in results)
            assert (retriever.stats.failures, retriever.stats.requests) == (10, 3 + 10)
            assert retriever.stats.circuits_opened == 1
            assert retriever.endpoints[0].failures == 3, "the batch has counted its failures"

    asyncio.run(main())


async def _busy(request: web.Request) -> web.StreamResponse:
    return web.Response(status=503)


@pytest.mark.parametrize("fault", [_busy, cut_off, hangs])
def test_a_batch_without_an_answer_is_not_split(fault: Handler) -> None:
    """No query is the cause, and many requests would be a burden on a server that is starting or overloaded."""

    async def main() -> None:
        async with server(fault) as url, client(url, timeout_s=0.5, max_retries=1) as retriever:
            results = await asyncio.gather(*(retriever.search(f"q{i}") for i in range(10)))
            assert all(result.documents is None for result in results)
            await asyncio.sleep(0.2)
            assert retriever.stats.requests <= 2

    asyncio.run(main())


def test_queries_alone_keep_the_deadline_of_their_batch_and_end_with_the_client() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        several = len((await request.json())["queries"]) > 1
        return await (error_500 if several else hangs)(request)

    async def main() -> None:
        async with server(handler) as url:
            async with client(url, timeout_s=0.5, max_retries=0) as retriever:
                results = await asyncio.gather(*map(retriever.search, ["x", "y"]))
                assert all("0.5 s" in (result.error or "") for result in results)
                assert retriever.stats.as_dict()["timeouts"] == 2
            async with client(url, timeout_s=30.0, max_retries=0) as retriever:
                tasks = [asyncio.create_task(retriever.search(query)) for query in "xy"]
                while retriever.stats.requests < 3:
                    await asyncio.sleep(0.01)
                await retriever.close()
                assert all("closed" in (found.error or "") for found in await asyncio.gather(*tasks))

    asyncio.run(asyncio.wait_for(main(), 20))
