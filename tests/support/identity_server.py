"""A small retrieval server with a chosen identity."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

READY = {"status": "ready", "backend": "bm25", "passages": 3, "version": "a1", "load_seconds": 1.5}


@contextmanager
def server(ready: Any, passage: str = "text", status: int = 200) -> Iterator[str]:
    """Serve an answer of /ready (None: 404), and one passage for every query; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def _send(self, code: int, body: Any) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._send(404, b"no") if ready is None else self._send(status, ready)

        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            hits = [{"document": {"id": "1", "contents": passage}, "score": 1.0}]
            self._send(200, {"result": [hits for _ in queries]})

        def log_message(self, *arguments: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
