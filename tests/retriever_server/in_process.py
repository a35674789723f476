"""Servers in a thread of the test's own process (another would import torch again), and questions to them."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from retriever_server.app import make_app
from retriever_server.serve import bind, url_of
from retriever_server.settings import Settings


def ask(url: str, queries: list[str], topk: int = 3) -> list[list[tuple[str, float]]]:
    body = json.dumps({"queries": queries, "topk": topk, "return_scores": True}).encode()
    with urllib.request.urlopen(url + "/retrieve", body, timeout=60) as response:
        results: list[list[dict[str, Any]]] = json.loads(response.read())["result"]
    return [[(item["document"]["id"], item["score"]) for item in items] for items in results]


@contextmanager
def running(backend: str, **settings: Any) -> Iterator[str]:
    """A server in a thread of this process (a process of its own would import torch again); its URL."""
    ready = threading.Event()
    sock = bind("127.0.0.1", 0)
    app = make_app(Settings(backend, **settings), ready.set, ready.set)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        assert ready.wait(60)
        if app.state.server.error is not None:
            raise app.state.server.error
        yield url_of(sock)
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()
