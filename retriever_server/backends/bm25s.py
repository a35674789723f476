"""BM25 without Java, by bm25s: for tests and corpora up to a few hundred thousand passages.

The work per query grows with the corpus. Rankings are close to Lucene's, not equal: formula and stemmer are the same,
details of the tokeniser differ.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

# Lucene's English stop words, which Anserini removes too.
STOPWORDS = frozenset(
    {
        "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no",
        "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this",
        "to", "was", "will", "with",
    }
)  # fmt: skip
_WORD = re.compile(r"\w+")


def import_bm25s() -> ModuleType:
    """Import bm25s without JAX, which it would start where it is installed: JAX takes 75 % of a GPU's memory."""
    absent = object()
    jax: Any = sys.modules.get("jax", absent)
    sys.modules["jax"] = None  # type: ignore[assignment]  # an import of it now raises ImportError
    try:
        return importlib.import_module("bm25s")
    finally:
        del sys.modules["jax"]
        if jax is not absent:
            sys.modules["jax"] = jax


class Tokenizer:
    """Split a text into lower-case words, remove stop words, and stem by Porter."""

    def __init__(self) -> None:
        import Stemmer

        self._stem = Stemmer.Stemmer("porter").stemWords

    def __call__(self, text: str) -> list[str]:
        words = [word.removesuffix("'s") for word in _WORD.findall(text.lower())]
        return list(self._stem([word for word in words if word not in STOPWORDS]))


class BM25SRanker:
    """Rank with a memory-mapped bm25s index."""

    parallelism = 1
    max_batch = 64

    def __init__(self, folder: Path) -> None:
        self._model: Any = import_bm25s().BM25.load(str(folder), mmap=True)
        self._vocabulary: dict[str, int] = self._model.vocab_dict
        self._passages = int(self._model.scores["num_docs"])
        self._tokenize = Tokenizer()

    def rank(self, queries: Sequence[str], topk: int) -> list[list[tuple[int, float]]]:
        return [self._rank_one(query, min(topk, self._passages)) for query in queries]

    def _rank_one(self, query: str, topk: int) -> list[tuple[int, float]]:
        words = self._tokenize(query)
        tokens = [self._vocabulary[word] for word in words if word in self._vocabulary]
        if not tokens:
            return []
        scores = self._model.get_scores_from_ids(tokens)
        best = top_rows(scores, topk)
        return [(int(row), float(scores[row])) for row in best if scores[row] > 0]

    def close(self) -> None:
        return


def top_rows(scores: np.ndarray, topk: int) -> np.ndarray:
    """Return the rows of the ``topk`` largest of ``scores[N]``, largest first, ties by row number."""
    topk = min(topk, len(scores))
    threshold = np.partition(scores, len(scores) - topk)[len(scores) - topk]
    rows = np.flatnonzero(scores >= threshold)  # all ties of the last place: a deterministic choice
    return rows[np.argsort(-scores[rows], kind="stable")][:topk]
