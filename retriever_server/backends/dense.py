"""Dense search: an index proposes slightly more rows than requested, and exact inner products rank them.

Candidates come from an exact scan of ``vectors.npy`` (float32, memory-mapped), a scan in half precision on a GPU, or an
approximate FAISS index. They are scored again in float64 from ``vectors.npy``, so rounding never decides the order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from threadpoolctl import ThreadpoolController

from ..encoder import Encoder
from .topk import merge_columns, top_columns

EXTRA = 16  # candidates beyond topk


class VectorIndex(Protocol):
    """Interface of an index that proposes candidate rows."""

    def propose(self, vectors: np.ndarray, count: int) -> np.ndarray:
        """Return row numbers ``[queries, count]`` for unit vectors ``[queries, d]``; -1 where fewer were found."""
        ...


class DenseRanker:
    """Rank rows by the inner product of encoded query and stored vector."""

    parallelism = 1  # encoder and scan each use all threads
    max_batch = 128

    def __init__(self, encoder: Encoder, vectors: np.ndarray, index: VectorIndex) -> None:
        self._encoder, self._vectors, self._index = encoder, vectors, index

    def rank(self, queries: Sequence[str], topk: int) -> list[list[tuple[int, float]]]:
        encoded = self._encoder.queries(queries)
        proposed = self._index.propose(encoded, min(topk + EXTRA, len(self._vectors)))
        return [self._exact(vector, rows, topk) for vector, rows in zip(encoded, proposed, strict=True)]

    def _exact(self, vector: np.ndarray, rows: np.ndarray, topk: int) -> list[tuple[int, float]]:
        rows = np.sort(rows[rows >= 0])  # FAISS fills with -1, which would index the last row
        scores = self._vectors[rows].astype(np.float64) @ vector.astype(np.float64)
        best = np.argsort(-scores, kind="stable")[:topk]
        return [(int(rows[i]), float(scores[i])) for i in best]

    def close(self) -> None:
        return


class FlatScan:
    """Exact scan on the CPU: products of the queries with blocks of vectors, and the best rows of each block.

    FAISS's flat index takes two to five times the CPU time of the matrix product (``docs/retriever.md``). Each thread
    multiplies blocks of its own, because BLAS threads that share one product wait for each other by spinning.

    Args:
        threads: one per usable core if None.
    """

    scores = 2**24  # computed at a time, in all threads: 64 MB

    def __init__(self, vectors: np.ndarray, threads: int | None = None) -> None:
        self._vectors = vectors
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="scan")
        self._libraries = ThreadpoolController()

    def propose(self, vectors: np.ndarray, count: int) -> np.ndarray:
        at_once = min(len(self._vectors), self.scores // max(1, len(vectors)))
        rows = max(1, -(-at_once // self._threads))

        def best(start: int) -> tuple[np.ndarray, np.ndarray]:
            values, found = top_columns(vectors @ self._vectors[start : start + rows].T, count)
            return values, found + start

        with self._libraries.limit(limits=1, user_api="blas"):
            parts = list(self._pool.map(best, range(0, len(self._vectors), rows)))
        return merge_columns(parts, count)[1]


class HalfPrecisionScan:
    """Scan in 16 bits on one GPU, or on the CPU for tests.

    Args:
        device: such as ``cuda:0``; no other device is used.
    """

    block = 1_000_000

    def __init__(self, vectors: np.ndarray, device: str) -> None:
        import torch

        self._torch: Any = torch
        self._device = torch.device(device)
        self._type = torch.bfloat16 if self._device.type == "cpu" else torch.float16
        self._blocks = [
            torch.from_numpy(np.array(vectors[start : start + self.block])).to(self._device, self._type)
            for start in range(0, len(vectors), self.block)
        ]

    def propose(self, vectors: np.ndarray, count: int) -> np.ndarray:
        torch = self._torch
        with torch.inference_mode():
            queries = torch.from_numpy(vectors).to(self._device, self._type)
            scores, rows, start = [], [], 0
            for block in self._blocks:
                best = (queries @ block.T).float().topk(min(count, len(block)), dim=1)
                scores.append(best.values)
                rows.append(best.indices + start)
                start += len(block)
            best = torch.cat(scores, 1).topk(count, dim=1)
            return np.asarray(torch.cat(rows, 1).gather(1, best.indices).cpu().numpy())


class ApproximateIndex:
    """A FAISS index of a factory string (IVF, HNSW, SQ8), memory-mapped where FAISS supports it.

    Args:
        effort: ``nprobe`` of an IVF index, ``efSearch`` of HNSW, also behind a pre-transform such as ``PCA48``; higher
            is more accurate and slower.
    """

    def __init__(self, path: Path, effort: int) -> None:
        import faiss

        self._index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        parameters = faiss.ParameterSpace()  # follows wrappers down to the index that has the parameter
        for name in ("nprobe", "efSearch"):
            with suppress(RuntimeError):  # FAISS's answer where no index inside has the parameter
                parameters.set_index_parameter(self._index, name, effort)

    def propose(self, vectors: np.ndarray, count: int) -> np.ndarray:
        return np.asarray(self._index.search(vectors, count)[1])
