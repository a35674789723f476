"""Build an approximate FAISS index of encoded vectors; an interrupted build resumes from its last checkpoint."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import first_line
from .base import BuildError, Progress

TRAIN_PER_LIST, MIN_TRAIN_VECTORS, MAX_TRAIN_VECTORS = 64, 50_000, 1_000_000
ADD = 100_000  # vectors added at once
CHECKPOINT_EVERY_S = 300.0
CHECKPOINTS = "faiss-*.index"


def build(vectors: np.ndarray, factory: str, source: str, work: Path, path: Path, progress: Progress) -> None:
    """Write the index of ``vectors[N, d]`` to ``path``.

    Args:
        factory: FAISS's factory string, such as ``IVF4096,SQ8``.
        source: what the vectors were made with; a checkpoint of vectors from another source is not resumed.
        work: folder for checkpoints: the trained index with the rows added so far.

    Raises:
        BuildError: FAISS does not know the factory string, or cannot train it on so few vectors.
    """
    import faiss

    name = hashlib.sha256(f"{factory} {source}".encode()).hexdigest()[:16]
    checkpoint = work / CHECKPOINTS.replace("*", name)
    index: Any = faiss.read_index(str(checkpoint)) if checkpoint.is_file() else _trained(vectors, factory)
    last = float("-inf")  # the first checkpoint holds the trained index
    while index.ntotal < len(vectors):
        if time.monotonic() - last > CHECKPOINT_EVERY_S:
            _write(index, checkpoint)
            last = time.monotonic()
        index.add(np.ascontiguousarray(vectors[index.ntotal : index.ntotal + ADD]))
        progress(index.ntotal, len(vectors))
    _write(index, path)


def new_index(factory: str, passages: int | None, width: int) -> tuple[Any, int]:
    """Return an untrained index and the number of its IVF lists, 0 without IVF.

    Args:
        passages: None where the corpus has not been read.

    Raises:
        BuildError: FAISS does not know the factory string, it numbers vectors, or it has more lists than there are
            passages.
    """
    import faiss

    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise BuildError(f"--factory {factory!r} is not a FAISS factory string: {error}") from None
    if isinstance(index, faiss.IndexIDMap):
        raise BuildError(f"--factory {factory} numbers the vectors itself. Fix: leave IDMap out.")
    inverted = faiss.try_extract_index_ivf(index)
    lists = inverted.nlist if inverted is not None else 0
    if passages is not None and lists > passages:
        fix = f"use about IVF{max(1, round(4 * passages**0.5)):d}, or no --factory: exact search is fast here"
        raise BuildError(f"--factory {factory} has {lists:,} lists for {passages:,} passages. Fix: {fix}.")
    return index, lists


def _trained(vectors: np.ndarray, factory: str) -> Any:
    index, lists = new_index(factory, *vectors.shape)
    count = min(len(vectors), max(TRAIN_PER_LIST * lists, MIN_TRAIN_VECTORS), MAX_TRAIN_VECTORS)
    sample = np.random.default_rng(0).choice(len(vectors), count, replace=False)
    try:
        index.train(np.ascontiguousarray(vectors[np.sort(sample)]))
    except RuntimeError as error:
        raise BuildError(
            f"--factory {factory} cannot be trained on {count:,} passages: {first_line(error)}"
        ) from error
    return index


def _write(index: Any, path: Path) -> None:
    import faiss

    temporary = path.with_suffix(".tmp")
    faiss.write_index(index, str(temporary))
    temporary.rename(path)
