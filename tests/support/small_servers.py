"""A retrieval client and small servers in the same process, healthy and faulty ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from sd_search_verl.retriever_client.client import RetrieverClient, SearchResult

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(queries: list[str], tag: str = "a") -> web.Response:
    document = [{"document": {"id": tag, "contents": f"{tag}:{query}"}, "score": 1.5} for query in queries]
    return web.json_response({"result": [[item] for item in document]})


@asynccontextmanager
async def server(handler: Handler, port: int = 0) -> AsyncIterator[str]:
    """A server on this machine whose POST /retrieve and /document/ID answer as ``handler`` says; 0 = a free port."""
    app = web.Application()
    app.router.add_post("/retrieve", handler)
    app.router.add_post("/document/{id}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
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


async def error_500(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="broken")


async def not_json(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>")


async def too_few(request: web.Request) -> web.StreamResponse:
    return web.json_response({"result": []})


async def cut_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"result": [[')
    assert request.transport is not None
    request.transport.close()
    return response


async def hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


FAULTS = [error_500, not_json, too_few, cut_off, hangs]
