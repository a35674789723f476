"""Every scan of stored vectors against the float64 inner products."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.retrieval_server import unit

from retriever_server.backends.dense import ApproximateIndex, DenseRanker, FlatScan, HalfPrecisionScan
from retriever_server.indexing import faiss_approximate


class _FixedEncoder:
    """Vectors instead of texts: query ``i`` is the vector ``i``."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def queries(self, texts: list[str]) -> np.ndarray:
        return self._vectors[[int(text) for text in texts]]


@pytest.mark.parametrize("kind", ["flat", "half", "SQ8", "IVF8,Flat", "HNSW16"])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_every_scan_agrees_with_float64(
    kind: str, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    rng = np.random.default_rng(0)
    stored, queries = unit(rng, 3000), unit(rng, batch)
    if kind == "flat":
        scan: Any = FlatScan(stored)
        scan.scores = 7000  # several blocks
    elif kind == "half":
        monkeypatch.setattr(HalfPrecisionScan, "block", 1000)
        scan = HalfPrecisionScan(stored, "cpu")
    else:
        faiss_approximate.build(stored, kind, "", tmp_path, tmp_path / "index", lambda done, total: None)
        scan = ApproximateIndex(tmp_path / "index", effort=256)
    ranker = DenseRanker(_FixedEncoder(queries), stored, scan)  # type: ignore[arg-type]
    found = ranker.rank([str(i) for i in range(batch)], 3)
    scores = queries.astype(np.float64) @ stored.T.astype(np.float64)
    expected = np.argsort(-scores, axis=1)[:, :3]
    same = np.mean(
        [[row for row, _ in hits] == list(best) for hits, best in zip(found, expected, strict=True)]
    )
    assert same == 1.0 if kind != "HNSW16" else same > 0.9


def test_missing_hits_never_become_other_passages() -> None:
    stored = unit(np.random.default_rng(0), 10)

    class Few:
        def propose(self, vectors: np.ndarray, count: int) -> np.ndarray:
            return np.array([[4, -1, -1]])

    ranker = DenseRanker(_FixedEncoder(stored), stored, Few())  # type: ignore[arg-type]
    assert [row for row, _ in ranker.rank(["4"], 3)[0]] == [4]


@pytest.mark.parametrize(
    "factory", ["IVF64,Flat", "PCA48,IVF64,Flat", "OPQ8_32,IVF64,SQ8", "HNSW8", "PCA48,HNSW8"]
)
def test_more_effort_finds_more_also_behind_a_transform(factory: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    stored = unit(np.random.default_rng(0), 3000)
    queries = stored[:100] + 0.3 * unit(np.random.default_rng(1), 100)
    faiss_approximate.build(stored, factory, "", tmp_path, tmp_path / "index", lambda done, total: None)
    exact = np.argsort(-(queries @ stored.T), axis=1)[:, :10]
    recalls = []
    for effort in (1, 64):
        found = ApproximateIndex(tmp_path / "index", effort).propose(queries, 10)
        recalls.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]))
    assert recalls[1] > recalls[0] + 0.05, recalls
