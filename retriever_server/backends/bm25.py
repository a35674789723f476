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

from .. import jvm

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
    """A Lucene index opened for BM25 search, as Anserini and Pyserini write it."""

    def __init__(self, folder: Path, k1: float, b: float, heap_mb: int = 512) -> None:
        jvm.start(heap_mb)
        self._one_at_a_time = threading.Lock()
        jvm.only_passed_on("org.apache.lucene.search.Query")
        jvm.only_passed_on("org.apache.lucene.search.TopFieldDocs")
        index_reader = "org.apache.lucene.index.IndexReader"
        directory = jvm.java_class("org.apache.lucene.store.FSDirectory").open(
            jvm.java_class("java.nio.file.Paths").get(str(folder))
        )
        self._reader = jvm.java_class("org.apache.lucene.index.DirectoryReader").open(directory)
        searcher_class = jvm.java_class("org.apache.lucene.search.IndexSearcher")
        searcher_class.setMaxClauseCount(MAX_CLAUSES)
        self._searcher = searcher_class(jvm.cast(index_reader, self._reader))
        self._searcher.setSimilarity(
            jvm.java_class("org.apache.lucene.search.similarities.BM25Similarity")(k1, b)
        )
        self._searcher.setQueryCache(None)
        self._analyzer = jvm.java_class("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()
        self._queries = jvm.java_class("io.anserini.search.query.BagOfWordsQueryGenerator")()
        field = jvm.java_class("org.apache.lucene.search.SortField")
        string = jvm.java_class("org.apache.lucene.search.SortField$Type").STRING_VAL
        # Equal scores are ordered by document id, as Anserini does.
        self._order = jvm.java_class("org.apache.lucene.search.Sort")(field.FIELD_SCORE, field("id", string))
        self._json = jvm.java_class("com.fasterxml.jackson.databind.ObjectMapper")()
        orders = jvm.java_class("java.lang.Class").forName("[Lorg.apache.lucene.search.SortField;")
        self._json.configOverride(orders).setIsIgnoredType(jvm.java_class("java.lang.Boolean")(True))

    def __len__(self) -> int:
        return int(self._reader.numDocs())

    def search(self, query: str, topk: int) -> tuple[list[int], list[float]]:
        """Lucene document numbers and raw scores of the best ``topk``, best first."""
        lucene_query = self._queries.buildQuery("contents", self._analyzer, query)
        # The order's first field is the score; Lucene's own `score` would be computed once more, term by term. One
        # string brings all hits over: an object each takes pyjnius longer.
        found = self._searcher.search(lucene_query, topk, self._order, False)
        hits = orjson.loads(self._json.writeValueAsString(found))["scoreDocs"]
        return [hit["doc"] for hit in hits], array("f", [hit["fields"][0] for hit in hits]).tolist()

    def raw(self, number: int) -> str | None:
        """The stored JSON line of a document, where the index was built to keep it."""
        # pyjnius keeps the receiver of a call in the method object that all instances of a class share. `search` calls
        # methods of shared objects only; here each call has a document of its own, and another thread's could answer.
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
        rankings = []
        for query in queries:
            numbers, scores = self._index.search(query, topk)
            rows = [self._rows[number] for number in numbers]
            rankings.append(list(zip(rows, round_scores(scores), strict=True)))
        return rankings

    def close(self) -> None:
        self._index.close()
