"""Search in other retrieval servers that each hold a part of the corpus, and merge their hits."""

from __future__ import annotations

import heapq
import itertools
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import orjson

from .base import Hit, NoLookupError
from .http_json import JsonClient, RemoteError, reading_answers, version_with

KIND = "a server of this package"


class RemoteEngine:
    """Query every part and merge by score. With exact parts the merged top k equals that of the whole corpus.

    Args:
        urls: server of each part. BM25 scores of parts differ slightly, as term statistics do.
    """

    parallelism = 4
    max_batch = 64

    def __init__(self, urls: Sequence[str], timeout_s: float = 30.0) -> None:
        self._parts = [JsonClient(url, timeout_s) for url in urls]
        self._threads = ThreadPoolExecutor(self.parallelism * len(urls), thread_name_prefix="remote")
        self.refresh()

    def refresh(self) -> None:
        states = list(map(_state, self._parts))
        self.passages = sum(passages for passages, _ in states)
        self.version = "+".join(version for _, version in states)

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
        parts = list(self._threads.map(lambda part: _search(part, queries, topk), self._parts))
        merged = [itertools.chain(*rankings) for rankings in zip(*parts, strict=True)]
        return [heapq.nlargest(topk, hits, key=lambda hit: hit.score) for hits in merged]

    def document(self, passage_id: str) -> bytes | None:
        path = f"/document/{urllib.parse.quote(passage_id, safe='')}"
        for part in self._parts:
            try:
                with reading_answers(part.name, KIND):
                    return orjson.dumps(part.call("GET", _base(part) + path)["document"])
            except RemoteError as error:
                if error.status == 501:
                    raise NoLookupError(str(error)) from error
                if error.status != 404:
                    raise
        return None

    def close(self) -> None:
        self._threads.shutdown()


def _base(part: JsonClient) -> str:
    return part.path.removesuffix("/retrieve")


def _state(part: JsonClient) -> tuple[int, str]:
    """Return passages and version of a part, its settings included."""
    state = part.call("GET", f"{_base(part)}/ready")
    with reading_answers(part.name, KIND):
        return int(state["passages"]), version_with(str(state["version"]), state.get("settings"))


def _search(part: JsonClient, queries: Sequence[str], topk: int) -> list[list[Hit]]:
    body = orjson.dumps({"queries": list(queries), "topk": topk, "return_scores": True})
    result = part.call("POST", f"{_base(part)}/retrieve", body).get("result", [])
    with reading_answers(part.name, KIND):
        if len(result) != len(queries):
            raise RemoteError(f"{part.name} answered {len(result)} of {len(queries)} queries")
        return [
            [Hit(orjson.dumps(item["document"]), float(item["score"])) for item in items] for items in result
        ]
