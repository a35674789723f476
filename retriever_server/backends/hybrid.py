"""Hybrid search: reciprocal-rank fusion of two rankers over the same corpus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from .base import Ranker

RRF_K = 60  # the constant of Cormack et al. (2009)


def fuse(rankings: Sequence[Sequence[tuple[int, float]]], topk: int) -> list[tuple[int, float]]:
    """Return the rows with the largest sums of 1 / (60 + rank) over the rankings, rank from 1; ties by row number."""
    scores: defaultdict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, (row, _) in enumerate(ranking, start=1):
            scores[row] += 1.0 / (RRF_K + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:topk]


class HybridRanker:
    """Fuse the rankings of two rankers, each of ``depth`` rows, or topk if that is more."""

    parallelism = 1
    max_batch = 128

    def __init__(self, first: Ranker, second: Ranker, depth: int) -> None:
        self._rankers, self._depth = (first, second), depth
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="hybrid")

    def rank(self, queries: Sequence[str], topk: int) -> list[list[tuple[int, float]]]:
        depth = max(topk, self._depth)
        parts = list(self._threads.map(lambda ranker: ranker.rank(queries, depth), self._rankers))
        return [fuse(rankings, topk) for rankings in zip(*parts, strict=True)]

    def close(self) -> None:
        self._threads.shutdown()
        for ranker in self._rankers:
            ranker.close()
