"""BM25 by Lucene, called directly: rankings and scores equal Pyserini's LuceneSearcher.

Anserini's own searcher spends much of its time on loading the stored document of every hit. Here Lucene only ranks:
``rows.npy`` maps its document numbers to rows of the corpus, and the text is read from the corpus file.
"""

from __future__ import annotations

import math
import os
import re
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ..corpus import CorpusError, check_line
from ..java import jvm, loop
from ..java.analysis import ENGLISH, Analysis, analyzer, terms
from .base import NoLookupError

LUCENE = "org.apache.lucene.search"
# Documents of a foreign index, words of each that are searched for at start, and the share of them that must be found.
SAMPLED, WORDS_EACH, MIN_FOUND = 16, 50, 0.95
_WORD = re.compile(
    r"(?<!\S)[^\W\d_]{2,}(?=[.,;:!?]*(?:\s|$))"
)  # not next to what a tokenizer may keep in a word
# Distinct terms of a query: no limit beside --max-query-chars. Beyond Lucene's own, 1024, every query of a batch fails.
MAX_CLAUSES = 2**31 - 1


def round_scores(scores: Sequence[float]) -> list[float]:
    """Return Anserini's scores for Lucene's raw ones: four decimals, ties separated by 1e-6, float32."""
    rounded = array("f", [math.floor(raw * 1e4 + 0.5) / 1e4 for raw in scores])
    ties = 0
    for place in range(1, len(rounded)):
        ties = ties + 1 if rounded[place - 1] - rounded[place] <= 1e-4 else 0
        rounded[place] -= 1e-6 * ties
    return rounded.tolist()


class LuceneIndex:
    """A Lucene index opened for BM25 search, as Anserini and Pyserini write it.

    Several threads may search in one index, but not in two at once: pyjnius would confuse the receivers of their calls.
    """

    def __init__(
        self,
        folder: Path,
        k1: float,
        b: float,
        heap_mb: int = jvm.DEFAULT_HEAP_MB,
        analysis: Analysis = ENGLISH,
    ) -> None:
        jvm.start(heap_mb)
        self.analyzer = analyzer(analysis)
        """Java object that makes terms of a query."""
        self._one_at_a_time = threading.Lock()
        path = jvm.java_class("java.nio.file.Paths").get(str(folder))
        directory = jvm.java_class("org.apache.lucene.store.FSDirectory").open(path)
        self._reader = jvm.java_class("org.apache.lucene.index.DirectoryReader").open(directory)
        searcher_class = jvm.java_class(f"{LUCENE}.IndexSearcher")
        searcher_class.setMaxClauseCount(MAX_CLAUSES)
        searcher = searcher_class(jvm.cast("org.apache.lucene.index.IndexReader", self._reader))
        searcher.setSimilarity(jvm.java_class(f"{LUCENE}.similarities.BM25Similarity")(k1, b))
        searcher.setQueryCache(None)
        self.ranked = _ranked(searcher, self.analyzer)
        """Java handle of ``(query text, topk) -> TopFieldDocs``."""
        self._search = loop.for_each_line(loop.then(self.ranked, _as_json()))

    def __len__(self) -> int:
        return int(self._reader.numDocs())

    @property
    def total_words(self) -> int:
        """Words of all contents that a query can find."""
        return int(self._reader.getSumTotalTermFreq("contents"))

    @property
    def has_deletions(self) -> bool:
        return bool(self._reader.hasDeletions())

    def search(self, queries: Sequence[str], topk: int) -> list[tuple[list[int], list[float]]]:
        """Return for each query the Lucene document numbers and raw scores of its best ``topk``, best first."""
        lines = "\n".join(query.replace("\n", " ") for query in queries)  # both separate words
        found = [orjson.loads(line)["scoreDocs"] for line in self._search(lines, topk).splitlines()]
        return [
            ([hit["doc"] for hit in hits], array("f", [hit["fields"][0] for hit in hits]).tolist())
            for hits in found
        ]

    def raw(self, number: int) -> str | None:
        """Return the stored JSON line of a document, None where the index was built without ``--storeRaw``."""
        # pyjnius stores the receiver of a call in the method object that all instances of a class share. `search` has
        # one receiver; here every document is another one, and the call could reach another thread's.
        with self._one_at_a_time:
            return self._reader.storedFields().document(number).get("raw")

    def ids(self) -> list[str]:
        """Return the id of every document, by Lucene document number."""
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


def _ranked(searcher: Any, analyzer: Any) -> Any:
    """Return a handle that parses and searches as Anserini does."""
    queries = jvm.java_class("io.anserini.search.query.BagOfWordsQueryGenerator")()
    string, analyzers = loop.STRING, "org.apache.lucene.analysis.Analyzer"
    build = loop.method(queries, "buildQuery", f"{LUCENE}.Query", string, analyzers, string)
    build = build.bindTo("contents").bindTo(analyzer)
    field = jvm.java_class(f"{LUCENE}.SortField")
    # Ties are ordered by document id, as Anserini does. The sort order already returns the score as its first field; a
    # last argument of true would make `search` compute it again, term by term.
    by_id = field("id", jvm.java_class(f"{LUCENE}.SortField$Type").STRING_VAL)
    order = jvm.java_class(f"{LUCENE}.Sort")(field.FIELD_SCORE, by_id)
    types = (f"{LUCENE}.Query", loop.INT, f"{LUCENE}.Sort", loop.BOOLEAN)
    search = loop.method(searcher, "search", f"{LUCENE}.TopFieldDocs", *types)
    return loop.then(build, loop.with_last(search, order, jvm.java_class("java.lang.Boolean")(False)))


def _as_json() -> Any:
    """Return a handle of ``TopFieldDocs -> JSON``: pyjnius converts one string faster than an object per hit."""
    mapper = jvm.java_class("com.fasterxml.jackson.databind.ObjectMapper")()
    orders = jvm.java_class("java.lang.Class").forName(f"[L{LUCENE}.SortField;")
    mapper.configOverride(orders).setIsIgnoredType(jvm.java_class("java.lang.Boolean")(True))
    write = loop.method(mapper, "writeValueAsString", loop.STRING, loop.OBJECT)
    return write.asType(loop.signature(loop.STRING, f"{LUCENE}.TopFieldDocs"))


class LuceneDocuments:
    """Documents of an index that Pyserini built with ``--storeRaw``; rows are Lucene's document numbers.

    Raises:
        ValueError: a sample of the documents, or a search for their words, shows that it cannot be served.
    """

    def __init__(self, index: LuceneIndex) -> None:
        self._index = index
        _check_foreign(index)

    def __len__(self) -> int:
        return len(self._index)

    def get(self, rows: Sequence[int]) -> list[bytes]:
        return [(self._index.raw(row) or "").encode() for row in rows]

    def by_id(self, passage_id: str) -> bytes | None:
        raise NoLookupError("an index that Pyserini built has no ids here. Fix: build it with build_index.")

    def close(self) -> None:
        return


def _check_foreign(index: LuceneIndex) -> None:
    """Check that documents are JSON with id and contents, and that their words, analysed as queries are, find any."""
    if len(index) == 0 or index.has_deletions:
        raise ValueError("it is empty or has deleted documents. Fix: build it again.")
    words: set[str] = set()
    for number in np.linspace(0, len(index) - 1, min(SAMPLED, len(index)), dtype=int).tolist():
        raw = index.raw(number)
        if raw is None:
            raise ValueError("it holds no raw documents. Fix: index with --storeRaw, or use build_index.")
        try:
            _id, contents = check_line(raw.encode())
        except CorpusError as error:
            fix = 'index JSON lines {"id", "contents"}, such as with build_index'
            raise ValueError(f"raw document {number} is {raw[:80]!r}: {error}. Fix: {fix}.") from None
        words.update(_WORD.findall(contents)[:WORDS_EACH])
    checked = sorted(word for word in words if terms(word, index.analyzer))  # without stop words
    found = sum(bool(numbers) for numbers, _ in index.search(checked, 1)) if checked else 0
    if found < MIN_FOUND * len(checked) or not found:
        raise ValueError(
            f"a search finds {found} of {len(checked)} words of its own documents: it was indexed with another "
            "analyser or language than queries are analysed with. Fix: give --language, --stemmer, --keep-stopwords "
            "and --pretokenized as they were when it was indexed, or build it with build_index."
        )


class BM25Ranker:
    """Rank corpus rows with a Lucene index, whose searcher is thread-safe."""

    max_batch = 32

    def __init__(self, index: LuceneIndex, rows: np.ndarray, threads: int | None = None) -> None:
        # A memoryview is indexed faster than a memory-mapped array.
        self._index, self._rows = index, rows.data
        self.parallelism = threads or len(os.sched_getaffinity(0))

    def rank(self, queries: Sequence[str], topk: int) -> list[list[tuple[int, float]]]:
        topk = min(topk, len(self._index))
        return [
            list(zip((self._rows[number] for number in numbers), round_scores(scores), strict=True))
            for numbers, scores in self._index.search(queries, topk)
        ]

    def close(self) -> None:
        self._index.close()
