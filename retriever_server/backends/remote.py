"""Search in other retrieval servers: each holds a part of the corpus, their best hits are the answer."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import orjson

from .base import Hit
from .http_json import JsonClient, RemoteError


class RemoteEngine:
    """Asks every part and merges by score. With exact parts the merged top k is that of the whole corpus.

    Args:
        urls: ``/retrieve`` of each part, all with one scoring (BM25 parts differ in their statistics).
    """

    parallelism = 4
    max_batch = 64

    def __init__(self, urls: Sequence[str], timeout_s: float = 30.0) -> None:
        self._parts = [JsonClient(url, timeout_s) for url in urls]
        self._threads = ThreadPoolExecutor(self.parallelism * len(urls), thread_name_prefix="remote")
        states = [part.call("GET", "/ready") for part in self._parts]
        self.passages = sum(int(state.get("passages", 0)) for state in states)
        self.version = "+".join(str(state.get("version", "?")) for state in states)

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
        parts = list(self._threads.map(lambda part: _search(part, queries, topk), self._parts))
        return [
            heapq.nlargest(topk, (hit for hits in ranked for hit in hits), key=lambda hit: hit.score)
            for ranked in zip(*parts, strict=True)
        ]

    def close(self) -> None:
        self._threads.shutdown()


def _search(part: JsonClient, queries: Sequence[str], topk: int) -> list[list[Hit]]:
    body = orjson.dumps({"queries": list(queries), "topk": topk, "return_scores": True})
    result = part.call("POST", part.path or "/retrieve", body).get("result", [])
    if len(result) != len(queries):
        raise RemoteError(f"{part.name} answered {len(result)} of {len(queries)} queries")
    return [[Hit(orjson.dumps(item["document"]), float(item["score"])) for item in items] for items in result]
