"""Requests to a retrieval server, and servers in a thread of the test's own process."""

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn

from retriever_server.app import Application
from retriever_server.server import bind, url_of
from retriever_server.settings import Settings


def post(url: str, body: Any, path: str = "/retrieve", **headers: str) -> tuple[int, Any]:
    """Status and JSON answer of a request; ``body`` is sent as JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def get(url: str) -> tuple[int, bytes]:
    """Status and body."""
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.status, response.read()


def metric(url: str, name: str) -> float:
    """Sum of a metric over its labels."""
    lines = get(url + "/metrics")[1].decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def answered(url: str, status: int) -> float:
    """Number of searches that were answered with this status."""
    lines = get(url + "/metrics")[1].decode().splitlines()
    name = f'retriever_requests_total{{path="/retrieve",status="{status}"}} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def ask(url: str, queries: list[str], topk: int = 3) -> list[list[tuple[str, float]]]:
    """For each query the (id, score) pairs."""
    body = json.dumps({"queries": queries, "topk": topk, "return_scores": True}).encode()
    with urllib.request.urlopen(url + "/retrieve", body, timeout=60) as response:
        results: list[list[dict[str, Any]]] = json.loads(response.read())["result"]
    return [[(item["document"]["id"], item["score"]) for item in items] for items in results]


def ids(url: str, query: str) -> list[str]:
    """The ids of a query's documents, best first."""
    status, answer = post(url, {"queries": [query]})
    assert status == 200
    return [document["id"] for document in answer["result"][0]]


def raw(url: str, data: bytes, wait_s: float = 10.0) -> bytes:
    """Everything that the server sends on a connection of its own after ``data``."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait_s) as sock:
        sock.sendall(data)
        received = b""
        while chunk := sock.recv(65536):
            received += chunk
        return received


@contextmanager
def running(backend: str, **settings: Any) -> Iterator[str]:
    """A server in a thread of this process (a process of its own would import torch again); its URL."""
    ready = threading.Event()
    sock = bind("127.0.0.1", 0)
    app = Application(Settings(backend=backend, **settings), ready.set)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        assert ready.wait(60)
        if app.server.error is not None:
            raise app.server.error
        yield url_of(sock)
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()


def unit(rng: np.random.Generator, count: int, width: int = 64) -> np.ndarray:
    """Random vectors of length 1, float32 ``[count, width]``."""
    vectors = rng.standard_normal((count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
