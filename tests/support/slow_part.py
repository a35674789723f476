"""A retrieval server, for the remote back end, that answers only while its gate is open."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class SlowPart:
    """The server, and the queries it was asked for."""

    def __init__(self) -> None:
        self.queries: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        part = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer({"passages": 1, "version": "slow"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                part.queries.append(body["queries"])
                part.gate.wait(60)
                hit = {"document": {"id": "1", "contents": "c"}, "score": 1.0}
                self.answer({"result": [[hit] for _ in body["queries"]]})

            def answer(self, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
