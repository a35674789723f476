"""Interfaces of a back end: a ranker returns rows of a corpus, an engine returns documents."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..errors import RetrieverError


class NoLookupError(RetrieverError):
    """This back end, or this index, has no documents by id."""


class Hit(NamedTuple):
    """One answer: the document's JSON object as bytes, and its score (higher is better)."""

    document: bytes
    score: float


class Ranker(Protocol):
    """Ranks passages of one corpus by row number. Called from several threads at once."""

    parallelism: int
    """Useful number of concurrent :meth:`rank` calls."""
    max_batch: int
    """Useful largest number of queries per call."""

    def rank(self, queries: Sequence[str], topk: int) -> list[list[tuple[int, float]]]:
        """Return for each query its best ``topk`` (row, score), best first; fewer where fewer match."""
        ...

    def close(self) -> None: ...


class Documents(Protocol):
    """Passages by row number, as JSON bytes."""

    def __len__(self) -> int: ...

    def get(self, rows: Sequence[int]) -> list[bytes]: ...

    def by_id(self, passage_id: str) -> bytes | None:
        """Return the passage with this id, or None.

        Raises:
            NoLookupError: the ids are not known.
        """
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """Interface that the server calls: query texts in, documents out."""

    parallelism: int
    max_batch: int
    passages: int
    version: str
    """Differs between engines that may answer differently."""

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
        """Return for each query its best ``topk`` hits, best first; fewer where fewer match. Scores are finite."""
        ...

    def refresh(self) -> None:
        """Read ``passages`` and ``version`` again where other servers have them: those may be restarted otherwise.

        Raises:
            CorpusError: the corpus was changed, so that no search can be answered.
        """
        ...

    def document(self, passage_id: str) -> bytes | None:
        """Return the document with this id as JSON, or None; see :meth:`Documents.by_id`."""
        ...

    def close(self) -> None: ...


def search(engine: Engine, queries: Sequence[str], topk: int) -> list[list[Hit]]:
    """Return the engine's hits.

    Raises:
        RetrieverError: they are not what :meth:`Engine.search` promises.
    """
    found = engine.search(queries, topk)
    if len(found) != len(queries):
        raise RetrieverError(
            f"{len(found)} lists of hits for {len(queries)} queries. Fix: one list per query"
        )
    for query, hits in zip(queries, found, strict=True):
        if len(hits) > topk:
            raise RetrieverError(f"{len(hits)} hits for topk={topk}. Fix: return at most topk")
        last = sys.float_info.max
        for hit in hits:
            if not -sys.float_info.max <= hit.score <= last:  # false for NaN too
                scores = ", ".join(f"{hit.score:g}" for hit in hits[:10])
                raise RetrieverError(f"scores {scores} of {query!r}. Fix: finite ones, the best hit first")
            last = hit.score
    return found


class LocalEngine:
    """A ranker and the documents of its rows."""

    def __init__(self, ranker: Ranker, documents: Documents, version: str) -> None:
        self.parallelism, self.max_batch = ranker.parallelism, ranker.max_batch
        self.passages, self.version = len(documents), version
        self._ranker, self._documents = ranker, documents

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]:
        rankings = self._ranker.rank(queries, topk)
        documents = iter(self._documents.get([row for ranking in rankings for row, _ in ranking]))
        return [[Hit(next(documents), score) for _, score in ranking] for ranking in rankings]

    def refresh(self) -> None:
        self._documents.get([])  # checks the corpus

    def document(self, passage_id: str) -> bytes | None:
        return self._documents.by_id(passage_id)

    def close(self) -> None:
        self._ranker.close()
        self._documents.close()
