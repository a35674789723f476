"""The retrieval client: queries share requests, servers share the load, and every search ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from aiohttp import web
from support.small_servers import Handler, answer, client, good, server

from sd_search_verl.config import ToolName
from sd_search_verl.errors import UserError
from sd_search_verl.protocol.tools import SCHEMAS
from sd_search_verl.retriever_client.client import RetrieverClient
from sd_search_verl.retriever_client.read_tool import UNAVAILABLE


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


def test_reads_that_fail_now_and_then_do_not_open_the_circuit() -> None:
    """As with searches, only failures in a row do; an unknown document is no failure."""
    whole = {"document": {"id": "1", "contents": "text"}, "offset": 0, "total": 4}
    script = ["lost", "lost", "there", "lost", "lost", "unknown", "lost", "lost", "lost"]

    async def handler(request: web.Request) -> web.Response:
        kind = script.pop(0)
        if kind == "lost":
            assert request.transport is not None
            request.transport.close()
        if kind == "unknown":
            return web.json_response({"error": {"message": "no document '1'"}}, status=404)
        return web.json_response(whole)

    async def main() -> None:
        async with server(handler) as url, client(url) as retriever:
            answers = [await retriever.read({"id": "1"}) for _ in range(8)]
            assert [text for text in answers if text != UNAVAILABLE] == ["text", "no document '1'"]
            assert retriever.stats.circuits_opened == 0
            assert retriever.endpoints[0].in_flight == 0
            await retriever.read({"id": "1"})
            assert retriever.stats.circuits_opened == 1

    asyncio.run(main())


def test_a_bad_url_is_named() -> None:
    with pytest.raises(UserError, match="'localhost:80' must start with http"):
        RetrieverClient(["localhost:80"], 3, 1.0, 0)


def test_importing_the_client_starts_nothing_heavy() -> None:
    program = (
        "import sys, sd_search_verl.retriever_client.client; "
        "print('torch' in sys.modules, 'jnius' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root, timeout=60
    )
    assert run.stdout.split() == ["False", "False"], run.stderr


def test_every_tool_of_the_config_has_a_schema_and_something_that_answers() -> None:
    client = RetrieverClient(["http://127.0.0.1:9"], 3, 1.0, 0)
    assert {*get_args(ToolName)} == {*SCHEMAS} == {"search", *client.tools}
