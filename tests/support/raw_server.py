"""A server that answers with the very bytes that a test gives: what no HTTP library would send."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
