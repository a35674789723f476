"""Search in other retrieval servers: each holds a part of the corpus, their best hits are the answer."""

from __future__ import annotations

import heapq
import http.client
import threading
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from .base import Hit


class RemoteError(RuntimeError):
    """A part did not answer. No answer is made without it: it would silently lack that part's documents."""


class RemoteEngine:
    """Asks every part and merges by score. With exact parts the merged top k is that of the whole corpus.

    Args:
        urls: ``/retrieve`` of each part, all with one scoring (BM25 parts differ in their statistics).
    """

    parallelism = 4
    max_batch = 64

    def __init__(self, urls: Sequence[str], timeout_s: float = 30.0) -> None:
        self._parts = [_Part(url, timeout_s) for url in urls]
        self._threads = ThreadPoolExecutor(self.parallelism * len(urls), thread_name_prefix="remote")
        states = [part.get("/ready") for part in self._parts]
        self.passages = sum(int(state.get("passages", 0)) for state in states)
        self.version = "+".join(str(state.get("version", "?")) for state in states)

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
        parts = list(self._threads.map(lambda part: part.search(queries, topk), self._parts))
        return [
            heapq.nlargest(topk, (hit for hits in ranked for hit in hits), key=lambda hit: hit.score)
            for ranked in zip(*parts, strict=True)
        ]

    def close(self) -> None:
        self._threads.shutdown()


class _Part:
    """One server, with a kept connection per calling thread."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = urllib.parse.urlsplit(url), timeout_s
        self._local = threading.local()

    def get(self, path: str) -> dict[str, Any]:
        return self._call("GET", path, None)

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
        body = orjson.dumps({"queries": list(queries), "topk": topk, "return_scores": True})
        result = self._call("POST", self._url.path or "/retrieve", body).get("result", [])
        if len(result) != len(queries):
            raise RemoteError(f"{self._url.geturl()} answered {len(result)} of {len(queries)} queries")
        return [
            [Hit(orjson.dumps(item["document"]), float(item["score"])) for item in items] for items in result
        ]

    def _call(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        for attempt in (1, 2):  # the second for a kept connection that the server has closed
            fresh = getattr(self._local, "connection", None) is None
            if fresh:
                kind = (
                    http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
                )
                self._local.connection = kind(self._url.netloc, timeout=self._timeout_s)
            try:
                self._local.connection.request(method, path, body, {"Content-Type": "application/json"})
                response = self._local.connection.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException) as error:
                self._local.connection = None
                if fresh or attempt == 2:
                    raise RemoteError(f"{self._url.geturl()}: {type(error).__name__}: {error}") from error
                continue
            if response.status != 200:
                raise RemoteError(f"{self._url.geturl()}: HTTP {response.status}: {answer[:200]!r}")
            return dict(orjson.loads(answer))
        raise AssertionError("unreachable")
