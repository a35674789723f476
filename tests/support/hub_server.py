"""A hub of one's own: what huggingface_hub's client asks of one, large files on another path, and breaks on demand."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

LARGE = 50_000  # bytes; the hub keeps larger files apart (LFS), under their SHA-256


@dataclass
class Hub:
    """Files by ``repository/name``, and what is done to their transfers.

    Attributes:
        breaks: after how many bytes the next transfers of a file end, one after the other.
        pause: seconds before each 4 KiB.
        damaged: files whose first byte is sent wrong.
        sent: of every transfer the file, its first byte's place and how many bytes went out.
    """

    files: dict[str, bytes]
    url: str = ""
    breaks: dict[str, list[int]] = field(default_factory=dict)
    pause: float = 0.0
    damaged: set[str] = field(default_factory=set)
    sent: list[tuple[str, int, int]] = field(default_factory=list)


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Hub]:
    """Run a hub; ``HF_ENDPOINT`` is its ``url``."""
    hub = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            place, _, name = unquote(self.path).partition("/resolve/main/")
            key = f"{place.removeprefix('/datasets').strip('/')}/{name}"
            apart = self.path.startswith("/apart/")
            if apart:
                key = unquote(self.path).removeprefix("/apart/")
            content = hub.files.get(key)
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            sha256 = hashlib.sha256(content).hexdigest()
            if len(content) > LARGE and not apart:
                self.send_response(302)
                self.send_header("Location", f"{hub.url}/apart/{key}")
                self.send_header("X-Linked-Etag", f'"{sha256}"')
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            wanted = self.headers.get("Range")
            first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            self.send_response(206 if wanted else 200)
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.send_header("ETag", f'"{git}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content) - first))
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if body:
                self._send(key, content, first)

        def _send(self, key: str, content: bytes, first: int) -> None:
            if key in hub.damaged:
                content = bytes([content[0] ^ 1]) + content[1:]
            end = len(content)
            if hub.breaks.get(key):
                end = min(end, first + hub.breaks[key].pop(0))
            done = first
            try:
                while done < end:
                    time.sleep(hub.pause)
                    self.wfile.write(content[done : min(done + 4096, end)])
                    done = min(done + 4096, end)
            except OSError:
                pass  # the client was killed
            hub.sent.append((key, first, done - first))
            self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
