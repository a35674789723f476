"""Read precomputed vectors from a flat FAISS index of a corpus, such as Search-R1's ``e5_Flat.index``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..encoder import Encoder
from .base import BuildError

MIN_COSINE = 0.99  # the given vectors are often computed in 16 bits


def read_flat(path: Path, passages: int, width: int) -> tuple[np.ndarray, Any]:
    """Return the vectors, float32 ``[passages, width]``, memory-mapped, and the index that owns their memory.

    Raises:
        BuildError: the file is not a flat index, or its size differs from the corpus' or the encoder's.
    """
    import faiss

    if not path.is_file():
        raise BuildError(f"--vectors {path} is not a file. Fix: give a flat FAISS index.")
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise BuildError(f"--vectors {path} is not a FAISS index: {str(error).splitlines()[0]}") from None
    if not isinstance(index, faiss.IndexFlat):
        raise BuildError(f"--vectors {path} holds {type(index).__name__}; only a flat index has all vectors.")
    if (index.ntotal, index.d) != (passages, width):
        raise BuildError(
            f"--vectors {path} has {index.ntotal:,} vectors of {index.d} numbers; the corpus has {passages:,} "
            f"passages and the encoder gives {width}. Fix: give the corpus that was encoded, and its encoder."
        )
    vectors: np.ndarray = faiss.rev_swig_ptr(index.get_xb(), passages * width).reshape(passages, width)
    return vectors, index


def check_first(vectors: np.ndarray, texts: list[str], encoder: Encoder) -> None:
    """Refuse vectors that differ from the encoder's vectors of ``texts``, the corpus' first passages.

    Raises:
        BuildError: names the first that differs.
    """
    own = encoder.passages(texts)
    for row, (theirs, ours) in enumerate(zip(vectors, own, strict=False)):
        cosine = float(theirs @ ours / (np.linalg.norm(theirs) * np.linalg.norm(ours)))
        if not cosine >= MIN_COSINE:
            raise BuildError(
                f"--vectors: passage {row} has another vector (cosine {cosine:.3f} with the encoder's). "
                "Fix: give the corpus in the order in which it was encoded, the same encoder and its prefixes."
            )
