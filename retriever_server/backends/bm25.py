"""BM25 by Lucene, called directly: the rankings and scores of Pyserini's LuceneSearcher without its overhead.

Much of the time of Anserini's own searcher goes into loading the stored document of every hit. Here Lucene
only ranks: ``rows.npy`` turns its document numbers into rows of the corpus, and the memory-mapped corpus has
the text.
"""

from __future__ import annotations

import math
import os
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ..java import jvm, loop

LUCENE = "org.apache.lucene.search"
MAX_CLAUSES = 16_384  # distinct terms of one query; Lucene's own limit of 1024 is an exception at search time


def round_scores(scores: Sequence[float]) -> list[float]:
    """Anserini's scores from Lucene's raw ones: four decimals, ties pushed apart by 1e-6, float32."""
    rounded = array("f", [math.floor(raw * 1e4 + 0.5) / 1e4 for raw in scores])
    ties = 0
    for place in range(1, len(rounded)):
        ties = ties + 1 if rounded[place - 1] - rounded[place] <= 1e-4 else 0
        rounded[place] -= 1e-6 * ties
    return rounded.tolist()


class LuceneIndex:
    """A Lucene index opened for BM25 search, as Anserini and Pyserini write it.

    Several threads may search in one, but not in two at once: pyjnius would mix up the receivers of their calls.
    """

    def __init__(self, folder: Path, k1: float, b: float, heap_mb: int = 512) -> None:
        jvm.start(heap_mb)
        self._one_at_a_time = threading.Lock()
        directory = jvm.java_class("org.apache.lucene.store.FSDirectory").open(
            jvm.java_class("java.nio.file.Paths").get(str(folder))
        )
        self._reader = jvm.java_class("org.apache.lucene.index.DirectoryReader").open(directory)
        searcher_class = jvm.java_class(f"{LUCENE}.IndexSearcher")
        searcher_class.setMaxClauseCount(MAX_CLAUSES)
        searcher = searcher_class(jvm.cast("org.apache.lucene.index.IndexReader", self._reader))
        searcher.setSimilarity(jvm.java_class(f"{LUCENE}.similarities.BM25Similarity")(k1, b))
        searcher.setQueryCache(None)
        self.ranked = _ranked(searcher)
        """Handle of ``(query text, topk) -> TopFieldDocs``."""
        self._search = loop.for_each_line(loop.then(self.ranked, _as_json()))

    def __len__(self) -> int:
        return int(self._reader.numDocs())

    def search(self, queries: Sequence[str], topk: int) -> list[tuple[list[int], list[float]]]:
        """For each query Lucene document numbers and raw scores of the best ``topk``, best first."""
        lines = "\n".join(query.replace("\n", " ") for query in queries)  # the same words: both separate them
        found = [orjson.loads(line)["scoreDocs"] for line in self._search(lines, topk).splitlines()]
        return [
            ([hit["doc"] for hit in hits], array("f", [hit["fields"][0] for hit in hits]).tolist())
            for hits in found
        ]

    def raw(self, number: int) -> str | None:
        """The stored JSON line of a document, where the index was built to keep it."""
        # pyjnius keeps the receiver of a call in the method object that all instances of a class share. `search` calls
        # one object only; here each call has a document of its own, and another thread's could answer.
        with self._one_at_a_time:
            return self._reader.storedFields().document(number).get("raw")

    def ids(self) -> list[str]:
        """The id of every document, by Lucene document number."""
        values: Any = jvm.java_class("org.apache.lucene.index.MultiDocValues").getBinaryValues(
            jvm.cast("org.apache.lucene.index.IndexReader", self._reader), "id"
        )
        found: list[str] = []
        while (number := values.nextDoc()) < 2**31 - 1:  # NO_MORE_DOCS
            if number != len(found):
                raise ValueError(f"document {len(found)} of the Lucene index has no id")
            found.append(values.binaryValue().utf8ToString())
        return found

    def close(self) -> None:
        self._reader.close()


def _ranked(searcher: Any) -> Any:
    """Parse and search as Anserini does."""
    queries = jvm.java_class("io.anserini.search.query.BagOfWordsQueryGenerator")()
    analyzer = jvm.java_class("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()
    string, analyzers = loop.STRING, "org.apache.lucene.analysis.Analyzer"
    build = loop.method(queries, "buildQuery", f"{LUCENE}.Query", string, analyzers, string)
    build = build.bindTo("contents").bindTo(analyzer)
    field = jvm.java_class(f"{LUCENE}.SortField")
    # Equal scores are ordered by document id, as Anserini does. The order's first field is the score: Lucene's own
    # `score` would be computed once more, term by term, so the last argument of `search` is false.
    by_id = field("id", jvm.java_class(f"{LUCENE}.SortField$Type").STRING_VAL)
    order = jvm.java_class(f"{LUCENE}.Sort")(field.FIELD_SCORE, by_id)
    types = (f"{LUCENE}.Query", loop.INT, f"{LUCENE}.Sort", loop.BOOLEAN)
    search = loop.method(searcher, "search", f"{LUCENE}.TopFieldDocs", *types)
    return loop.then(build, loop.with_last(search, order, jvm.java_class("java.lang.Boolean")(False)))


def _as_json() -> Any:
    """Handle of ``TopFieldDocs -> JSON``: one string brings all hits over; an object each takes pyjnius longer."""
    mapper = jvm.java_class("com.fasterxml.jackson.databind.ObjectMapper")()
    orders = jvm.java_class("java.lang.Class").forName(f"[L{LUCENE}.SortField;")
    mapper.configOverride(orders).setIsIgnoredType(jvm.java_class("java.lang.Boolean")(True))
    write = loop.method(mapper, "writeValueAsString", loop.STRING, loop.OBJECT)
    return write.asType(loop.signature(loop.STRING, f"{LUCENE}.TopFieldDocs"))


class LuceneDocuments:
    """Documents out of an index that Pyserini built with ``--storeRaw``; its rows are Lucene's numbers.

    Raises:
        ValueError: the index does not hold them.
    """

    def __init__(self, index: LuceneIndex) -> None:
        self._index = index
        if len(index) and index.raw(0) is None:
            raise ValueError("it holds no raw documents. Fix: index with --storeRaw, or use build_index.")

    def __len__(self) -> int:
        return len(self._index)

    def get(self, rows: Sequence[int]) -> list[bytes]:
        return [(self._index.raw(row) or "").encode() for row in rows]

    def close(self) -> None:
        return


class BM25Ranker:
    """Ranks corpus rows with a Lucene index. Its threads share one searcher; Lucene is made for that."""

    max_batch = 32

    def __init__(self, index: LuceneIndex, rows: np.ndarray, threads: int | None = None) -> None:
        self._index, self._rows = index, rows.data  # a memory-mapped array's own indexing is slow
        self.parallelism = threads or len(os.sched_getaffinity(0))

    def rank(self, queries: Sequence[str], topk: int) -> list[list[tuple[int, float]]]:
        topk = min(topk, len(self._index))
        return [
            list(zip((self._rows[number] for number in numbers), round_scores(scores), strict=True))
            for numbers, scores in self._index.search(queries, topk)
        ]

    def close(self) -> None:
        self._index.close()
