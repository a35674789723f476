"""What a server's answer to one request means for the next: it is busy, faulty, or not there."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiohttp import web
from support.small_servers import FAULTS, Handler, answer, client, good, server


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


def test_a_server_that_restarts_is_waited_for_as_long_as_the_deadline_lasts() -> None:
    """Refused connections are no reason to give up early: those of a restart last longer than the retries."""

    async def handler(request: web.Request) -> web.Response:
        return answer((await request.json())["queries"])

    async def main() -> None:
        async with server(handler) as url:
            pass  # the port is free again
        async with client(url, timeout_s=6.0, max_retries=1) as retriever:
            search = asyncio.create_task(retriever.search("q"))
            await asyncio.sleep(4.0)  # longer than one retry waits
            assert not search.done()
            async with server(handler, port=int(url.rpartition(":")[2])):
                good(await search, "a:q")
        async with client(url, timeout_s=6.0, max_retries=0) as retriever:
            start = time.monotonic()
            assert (await retriever.search("q")).documents is None
            assert time.monotonic() - start < 2.0

    asyncio.run(main())
