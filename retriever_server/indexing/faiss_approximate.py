"""Build an approximate FAISS index of encoded vectors; an interrupted build resumes from its last checkpoint."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from .base import BuildError, Progress

TRAIN_PER_LIST, MIN_TRAIN_VECTORS, MAX_TRAIN_VECTORS = 64, 50_000, 1_000_000
ADD = 100_000  # vectors added at once
CHECKPOINT_EVERY_S = 300.0


def build(
    vectors: np.ndarray, factory: str, encoder: str, work: Path, path: Path, progress: Progress
) -> None:
    """Write the index of ``vectors[N, d]`` to ``path``.

    Args:
        factory: FAISS's factory string, such as ``IVF4096,SQ8``.
        encoder: hash of the encoder's weights; a checkpoint of another encoder is not resumed.
        work: folder for checkpoints: the trained index with the rows added so far.

    Raises:
        BuildError: FAISS does not know the factory string.
    """
    import faiss

    name = hashlib.sha256(f"{factory} {encoder}".encode()).hexdigest()[:16]
    checkpoint = work / f"faiss-{name}.index"
    index: Any = faiss.read_index(str(checkpoint)) if checkpoint.is_file() else _trained(vectors, factory)
    last = float("-inf")  # the first checkpoint holds the trained index
    while index.ntotal < len(vectors):
        if time.monotonic() - last > CHECKPOINT_EVERY_S:
            _write(index, checkpoint)
            last = time.monotonic()
        index.add(np.ascontiguousarray(vectors[index.ntotal : index.ntotal + ADD]))
        progress(index.ntotal, len(vectors))
    _write(index, path)


def _trained(vectors: np.ndarray, factory: str) -> Any:
    import faiss

    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise BuildError(f"--factory {factory!r} is not a FAISS factory string: {error}") from None
    lists = getattr(faiss.extract_index_ivf(index), "nlist", 0) if "IVF" in factory else 0
    count = min(len(vectors), max(TRAIN_PER_LIST * lists, MIN_TRAIN_VECTORS), MAX_TRAIN_VECTORS)
    sample = np.random.default_rng(0).choice(len(vectors), count, replace=False)
    index.train(np.ascontiguousarray(vectors[np.sort(sample)]))
    return index


def _write(index: Any, path: Path) -> None:
    import faiss

    temporary = path.with_suffix(".tmp")
    faiss.write_index(index, str(temporary))
    temporary.rename(path)
