"""Search in an OpenSearch or Elasticsearch index: BM25 by Lucene, for corpora larger than one machine."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import orjson

from .base import Hit, NoLookupError
from .http_json import JsonClient, RemoteError, reading_answers, version_with

KIND = "OpenSearch"
MAX_TERMS = 1000  # of one query; the servers reject more than 1024, and all queries of a batch with it
# A word, or a character of a script without spaces.
_TERM = re.compile(r"[^\W\u2e80-\U0010ffff]+|[\u2e80-\U0010ffff]")
CHECKED_WORDS = 50  # of the document that is searched for at start


class OpenSearchEngine:
    """Query one index, whose documents have a text field ``contents``, with one ``_msearch`` per batch.

    Args:
        url: ``http(s)://[user:password@]host:9200/INDEX``.

    Raises:
        RemoteError: the server does not answer, or the index is missing, empty or has other fields.
    """

    parallelism = 4
    max_batch = 64

    def __init__(self, url: str, timeout_s: float = 30.0) -> None:
        self._server = JsonClient(url, timeout_s)
        if not self._server.path:
            raise RemoteError(f"{self._server.name} names no index. Fix: give http://host:9200/INDEX.")
        self.refresh()
        with reading_answers(self._server.name, KIND):
            self._check_fields()

    def refresh(self) -> None:
        with reading_answers(self._server.name, KIND):
            self.passages = int(self._server.call("GET", f"{self._server.path}/_count")["count"])
            settings = self._server.call("GET", f"{self._server.path}/_settings")
            versions = sorted(_version(index["settings"]["index"]) for index in settings.values())
            self.version = f"{'+'.join(versions)}:{self.passages}"

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
        lines = b"".join(b"{}\n" + orjson.dumps(_body(query, topk)) + b"\n" for query in queries)
        answer = self._server.call("POST", f"{self._server.path}/_msearch", lines, "application/x-ndjson")
        responses = answer.get("responses", [])
        if len(responses) != len(queries):
            raise RemoteError(f"{self._server.name} answered {len(responses)} of {len(queries)} queries")
        with reading_answers(self._server.name, KIND):
            return [self._hits(response) for response in responses]

    def document(self, passage_id: str) -> bytes | None:
        raise NoLookupError("documents of an OpenSearch index are not read by id. Fix: use a local index.")

    def close(self) -> None:
        return

    def _check_fields(self) -> None:
        """Refuse an index whose first document has no ``contents``, or is not found by its first words."""
        name, fix = self._server.name, "index documents with a text field contents"
        body = orjson.dumps({"query": {"match_all": {}}, "size": 1})
        hits = self._server.call("POST", f"{self._server.path}/_search", body)["hits"]["hits"]
        source = hits[0].get("_source", {}) if hits else None
        if source is None:
            raise RemoteError(f"{name} has no documents. Fix: index the corpus first.")
        if not isinstance(source.get("contents"), str):
            raise RemoteError(f"{name} has documents with the fields {', '.join(source)}. Fix: {fix}.")
        words = " ".join(source["contents"].split()[:CHECKED_WORDS])
        if words and not self.search([words], 1)[0]:
            raise RemoteError(f"{name} does not find a document by the words of its contents. Fix: {fix}.")

    def _hits(self, response: dict[str, Any]) -> list[Hit]:
        shards = response.get("_shards", {})
        if "error" in response or response.get("timed_out") or shards.get("failed"):
            reason = response.get("error") or shards.get("failures") or "timed out"
            raise RemoteError(f"{self._server.name}: a search was not answered wholly: {str(reason)[:300]}")
        return [_hit(hit) for hit in response["hits"]["hits"]]


def _version(index: dict[str, Any]) -> str:
    shaping = {name: index[name] for name in ("analysis", "similarity") if name in index}
    return version_with(str(index["uuid"]), shaping)


def _body(query: str, topk: int) -> dict[str, Any]:
    words = " ".join(query.split())
    beyond = next(itertools.islice(_TERM.finditer(words), MAX_TERMS, None), None)
    if beyond is not None:
        words = words[: beyond.start()].rstrip()
    return {"query": {"match": {"contents": words}}, "size": topk, "_source": ["id", "contents"]}


def _hit(hit: dict[str, Any]) -> Hit:
    source = hit["_source"]
    document = {"id": str(source.get("id", hit["_id"])), "contents": source["contents"]}
    return Hit(orjson.dumps(document), float(hit["_score"]))
