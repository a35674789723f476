"""A server that answers with the very bytes that a test gives: what no HTTP library would send."""

from __future__ import annotations

import asyncio
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sd_search_verl.retriever_client.client import RetrieverClient, SearchResult

Answer = Callable[[str, str, bytes], bytes | Iterator[bytes]]
"""Method, path and body of a request -> the whole answer, or its parts with pauses between them."""


def http(body: Any, status: str = "200 OK", *headers: str) -> bytes:
    """Return an answer; a body that is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """Serve ``answer``; yield the address."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            method, path, _ = self.rfile.readline().decode("latin-1").split(" ", 2)
            length = 0
            while (line := self.rfile.readline()).strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            found = answer(method, path, self.rfile.read(length))
            try:
                for part in [found] if isinstance(found, bytes) else found:
                    self.wfile.write(part)
            except OSError:  # the client has read enough
                return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address, request_queue_size = True, True, 64

    with Server(("127.0.0.1", 0), Handler) as tcp:
        threading.Thread(target=tcp.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{tcp.server_address[1]}"
        finally:
            tcp.shutdown()


HIT = {"document": {"id": "1", "contents": "title\ntext"}, "score": 1.0}


def to_queries(make: Callable[[int, int], bytes]) -> Answer:
    """Answer ``make(number of queries, topk)`` to searches, and 404 to everything else."""

    def answer(method: str, path: str, body: bytes) -> bytes:
        if method != "POST":
            return http(b"no", "404 Not Found")
        asked = json.loads(body)
        return make(len(asked["queries"]), asked["topk"])

    return answer


def hits(**changes: Any) -> Answer:
    return to_queries(lambda n, k: http({"result": [[{**HIT, **changes}]] * n}))


def always(answer: bytes) -> Answer:
    return lambda method, path, body: answer


def search(url: str) -> SearchResult:
    async def run() -> SearchResult:
        client = RetrieverClient([url], top_k=3, timeout_s=1.0, max_retries=0)
        try:
            return await client.search("test")
        finally:
            await client.close()

    return asyncio.run(run())
