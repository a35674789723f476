"""Dense search: every index proposes a few more rows than asked for, exact inner products decide.

``vectors.npy`` (float32, memory-mapped) is the truth. Scanned whole by FAISS, scanned in half precision on a
GPU, or through an approximate FAISS index, the proposed rows are scored again in float64, so that rounding
never orders hits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..encoder import Encoder

EXTRA = 16  # rows proposed beyond topk, for the exact scores to choose from


class VectorIndex(Protocol):
    """Proposes rows."""

    def propose(self, vectors: np.ndarray, count: int) -> np.ndarray:
        """Row numbers ``[queries, count]`` for unit vectors ``[queries, d]``; -1 where fewer were found."""
        ...


class DenseRanker:
    """Ranks rows by the inner product of encoded query and stored vector."""

    parallelism = 1  # encoder and scan use all cores by themselves
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
    """Scan of all vectors by FAISS. Small batches go through its SIMD kernel, larger ones through BLAS.

    FAISS's own switch between the two is late (167 queries at d=768 in 1.15), which costs up to 7x in
    between, and its unit differs between versions; so the crossover is measured once and set for every call.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        import faiss

        self._faiss: Any = faiss
        self._vectors = vectors
        faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
        self.blas_from = self._calibrate()

    def propose(self, vectors: np.ndarray, count: int) -> np.ndarray:
        return self._scan(self._vectors, vectors, count, blas=len(vectors) >= self.blas_from)

    def _scan(self, stored: np.ndarray, vectors: np.ndarray, count: int, blas: bool) -> np.ndarray:
        self._faiss.cvar.distance_compute_blas_threshold = 1 if blas else 2**31 - 1
        _, rows = self._faiss.knn(vectors, stored, count, metric=self._faiss.METRIC_INNER_PRODUCT)
        return np.asarray(rows)

    def _calibrate(self) -> int:
        """The smallest batch for which BLAS was the faster on the first rows."""
        sample = np.ascontiguousarray(self._vectors[:20_000])
        for batch in (2, 4, 8, 16, 32):
            queries = np.ascontiguousarray(np.resize(sample[:batch], (batch, sample.shape[1])))
            count = min(3 + EXTRA, len(sample))
            simd, blas = (
                min(self._seconds(sample, queries, count, b) for _ in range(3)) for b in (False, True)
            )
            if blas < simd:
                return batch
        return 32

    def _seconds(self, stored: np.ndarray, vectors: np.ndarray, count: int, blas: bool) -> float:
        start = time.perf_counter()
        self._scan(stored, vectors, count, blas)
        return time.perf_counter() - start


class HalfPrecisionScan:
    """Scan in 16 bits on one GPU (or, for tests, the CPU): half the memory; exact scores repair rounding.

    Args:
        device: like ``cuda:0``; only this one is touched.
        memory_share: largest share of the device's memory this process may take.
    """

    block = 1_000_000

    def __init__(self, vectors: np.ndarray, device: str, memory_share: float) -> None:
        import torch

        self._torch: Any = torch
        self._device = torch.device(device)
        self._type = torch.bfloat16 if self._device.type == "cpu" else torch.float16
        if self._device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(memory_share, self._device)
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
    """A FAISS index made by a factory string (IVF, HNSW, SQ8 …), memory-mapped where FAISS can.

    Args:
        effort: ``nprobe`` of an IVF index, ``efSearch`` of HNSW; more finds more and takes longer.
    """

    def __init__(self, path: Path, effort: int) -> None:
        import faiss

        self._index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        inner = faiss.downcast_index(self._index)
        if hasattr(inner, "nprobe"):
            inner.nprobe = effort
        elif hasattr(inner, "hnsw"):
            inner.hnsw.efSearch = effort

    def propose(self, vectors: np.ndarray, count: int) -> np.ndarray:
        return np.asarray(self._index.search(vectors, count)[1])
