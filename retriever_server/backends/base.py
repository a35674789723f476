"""Interfaces of a back end: a ranker returns rows of a corpus, an engine returns documents."""

from __future__ import annotations

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

    def search(self, queries: Sequence[str], topk: int) -> list[list[Hit]]: ...

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
