"""The retrieval client against small servers in the same process, healthy and faulty ones."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from sd_search_verl.errors import UserError
from sd_search_verl.rollout.retriever import RetrieverClient, SearchResult

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(queries: list[str], tag: str = "a") -> web.Response:
    document = [{"document": {"id": tag, "contents": f"{tag}:{query}"}, "score": 1.5} for query in queries]
    return web.json_response({"result": [[item] for item in document]})


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """A server on a free port of this machine that answers POST /retrieve as ``handler`` says."""
    app = web.Application()
    app.router.add_post("/retrieve", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = site._server.sockets[0].getsockname()  # type: ignore[union-attr]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client(*urls: str, timeout_s: float = 5.0, max_retries: int = 3) -> AsyncIterator[RetrieverClient]:
    made = RetrieverClient(urls, 3, timeout_s, max_retries)
    try:
        yield made
    finally:
        await made.close()


def good(result: SearchResult, contents: str) -> None:
    assert result.error is None
    assert result.documents is not None
    assert [document.contents for document in result.documents] == [contents]


def test_concurrent_queries_share_a_request_and_keep_their_answers() -> None:
    bodies = []

    async def handler(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return answer(bodies[-1]["queries"])

    async def main() -> None:
        async with server(handler) as url, client(url) as retriever:
            results = await asyncio.gather(*(retriever.search(f"q{i}") for i in range(150)))
            for i, result in enumerate(results):
                good(result, f"a:q{i}")
            assert retriever.stats.as_dict()["searches"] == 150

    asyncio.run(main())
    assert len(bodies) <= 4
    assert all(body["topk"] == 3 and body["return_scores"] is True for body in bodies)


@pytest.mark.parametrize("status", [429, 503])
def test_busy_servers_are_waited_for(status: int) -> None:
    times = []

    async def handler(request: web.Request) -> web.Response:
        times.append(time.monotonic())
        if len(times) == 1:
            return web.Response(status=status, headers={"Retry-After": "1"})
        return answer((await request.json())["queries"])

    async def main() -> None:
        async with server(handler) as url, client(url, timeout_s=10) as retriever:
            good(await retriever.search("q"), "a:q")
            assert (retriever.stats.throttled, retriever.stats.retries, retriever.stats.failures) == (1, 1, 0)

    asyncio.run(main())
    assert times[1] - times[0] >= 1.0


async def _error_500(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="broken")


async def _not_json(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>")


async def _too_few(request: web.Request) -> web.StreamResponse:
    return web.json_response({"result": []})


async def _cut_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"result": [[')
    assert request.transport is not None
    request.transport.close()
    return response


async def _hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


FAULTS = [_error_500, _not_json, _too_few, _cut_off, _hangs]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_server_gives_unavailable_within_the_deadline(fault: Handler) -> None:
    async def main() -> None:
        async with server(fault) as url, client(url, timeout_s=1.0, max_retries=2) as retriever:
            start = time.monotonic()
            result = await retriever.search("q")
            assert time.monotonic() - start < 2.0
            assert result.documents is None
            assert result.error
            assert retriever.stats.failures == 1

    asyncio.run(main())


@pytest.mark.parametrize("fault", FAULTS)
def test_another_server_stands_in(fault: Handler) -> None:
    async def handler(request: web.Request) -> web.Response:
        return answer((await request.json())["queries"])

    async def main() -> None:
        async with server(fault) as bad, server(handler) as ok, client(bad, ok, timeout_s=2.0) as retriever:
            for i in range(20):
                good(await retriever.search(f"q{i}"), f"a:q{i}")
            broken = retriever.endpoints[0]
            assert broken.failures <= 3, "a broken server is left alone"
            assert retriever.stats.requests <= 23

    asyncio.run(main())


def test_no_server_at_all_is_unavailable() -> None:
    async def main() -> None:
        async with client("http://127.0.0.1:9", timeout_s=0.5, max_retries=1) as retriever:
            result = await retriever.search("q")
            assert result.documents is None
            assert result.error is not None
            assert "127.0.0.1:9" in result.error
            assert retriever.stats.as_dict()["failures"] == 1

    asyncio.run(main())


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
            server(_error_500) as broken,
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
        async with server(_error_500) as url, client(url, timeout_s=1.0, max_retries=2) as retriever:
            results = await asyncio.gather(*(retriever.search(f"q{i}") for i in range(10)))
            assert all(result.documents is None and result.latency_s < 1.0 for result in results)
            assert (retriever.stats.failures, retriever.stats.requests) == (10, 3 + 10)
            assert retriever.stats.circuits_opened == 1
            assert retriever.endpoints[0].failures == 3, "the batch has counted its failures"

    asyncio.run(main())


async def _busy(request: web.Request) -> web.StreamResponse:
    return web.Response(status=503)


@pytest.mark.parametrize("fault", [_busy, _cut_off, _hangs])
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
        return await (_error_500 if several else _hangs)(request)

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


def test_load_is_spread_over_healthy_servers() -> None:
    counts = {"a": 0, "b": 0}

    def handler(tag: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            counts[tag] += 1
            await asyncio.sleep(0.02)
            return answer((await request.json())["queries"], tag)

        return handle

    async def main() -> None:
        async with server(handler("a")) as a, server(handler("b")) as b, client(a, b) as retriever:

            async def several() -> None:
                for _ in range(10):
                    await retriever.search("q")
                    await asyncio.sleep(0.005)

            await asyncio.gather(*(several() for _ in range(8)))

    asyncio.run(main())
    # Both take part; how evenly depends on how the machine schedules so few requests.
    assert min(counts.values()) >= 0.1 * sum(counts.values())


def test_a_cancelled_search_leaves_the_others_alone() -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(0.2)
        return answer((await request.json())["queries"])

    async def main() -> None:
        async with server(handler) as url, client(url) as retriever:
            kept, dropped = (asyncio.create_task(retriever.search(q)) for q in ("kept", "dropped"))
            await asyncio.sleep(0.05)
            dropped.cancel()
            good(await kept, "a:kept")
            with pytest.raises(asyncio.CancelledError):
                await dropped

    asyncio.run(main())


def test_close_ends_searches_under_way_and_the_client_works_on_another_loop() -> None:
    retriever: list[RetrieverClient] = []

    async def handler(request: web.Request) -> web.Response:
        queries = (await request.json())["queries"]
        await asyncio.sleep(30 if "slow" in queries else 0)
        return answer(queries)

    async def first() -> None:
        async with server(handler) as url:
            retriever.append(RetrieverClient([url], 3, 10.0, 0))
            task = asyncio.create_task(retriever[0].search("slow"))
            await asyncio.sleep(0.1)
            await retriever[0].close()
            result = await task
            assert result.documents is None
            assert "closed" in (result.error or "")

    async def second() -> None:
        async with server(handler) as url:
            retriever[0].endpoints[0].url = url + "/retrieve"
            good(await retriever[0].search("q"), "a:q")
            await retriever[0].close()

    asyncio.run(first())
    asyncio.run(second())


@pytest.mark.parametrize(
    ("urls", "message"),
    [([], "at least one URL"), ("http://a", "must be a list"), (["localhost:80"], "must start with http")],
)
def test_bad_urls_are_named(urls: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RetrieverClient(urls, 3, 1.0, 0)


def test_importing_the_client_starts_nothing_heavy() -> None:
    program = (
        "import sys, sd_search_verl.rollout.retriever; print('torch' in sys.modules, 'jnius' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root, timeout=60
    )
    assert run.stdout.split() == ["False", "False"], run.stderr
