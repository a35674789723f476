"""Read precomputed vectors from a flat FAISS index of a corpus, such as Search-R1's ``e5_Flat.index``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..encoder import Encoder
from ..errors import first_line
from .base import BuildError

MIN_COSINE, MAX_STRETCH = 0.99, 0.02  # the given vectors are often computed in 16 bits


def open_flat(path: Path, width: int) -> Any:
    """Return a flat index, memory-mapped.

    Raises:
        BuildError: the file is not one, or its vectors have not the encoder's ``width``.
    """
    import faiss

    if not path.is_file():
        raise BuildError(f"--vectors {path} is not a file. Fix: give a flat FAISS index.")
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise BuildError(f"--vectors {path} is not a FAISS index: {first_line(error)}") from None
    if not isinstance(index, faiss.IndexFlat):
        raise BuildError(f"--vectors {path} holds {type(index).__name__}; only a flat index has all vectors.")
    if index.d != width:
        raise BuildError(
            f"--vectors {path} has vectors of {index.d} numbers, the encoder gives {width}. "
            "Fix: give the encoder that they were made with."
        )
    return index


def read_flat(path: Path, passages: int, width: int) -> tuple[np.ndarray, Any]:
    """Return the vectors, float32 ``[passages, width]``, memory-mapped, and the index that owns their memory.

    Raises:
        BuildError: as :func:`open_flat`, or there is not one for each passage.
    """
    import faiss

    index = open_flat(path, width)
    if index.ntotal != passages:
        raise BuildError(
            f"--vectors {path} has {index.ntotal:,} vectors, the corpus has {passages:,} passages. "
            "Fix: give the corpus that was encoded."
        )
    vectors: np.ndarray = faiss.rev_swig_ptr(index.get_xb(), passages * width).reshape(passages, width)
    return vectors, index


def check_vectors(
    vectors: np.ndarray, first_row: int, texts: list[str], rows: range, encoder: Encoder
) -> None:
    """Refuse vectors that are not finite or zero, or that differ from the encoder's at ``rows``.

    Args:
        vectors: those of ``texts``, passages ``first_row`` and following.
        rows: indices of texts that are encoded and compared.

    Raises:
        BuildError: names the first that is wrong.
    """
    norms = np.linalg.norm(vectors, axis=1)
    unusable = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(unusable):
        raise BuildError(
            f"--vectors: the vector of passage {first_row + unusable[0]} is zero or not finite. "
            "Fix: encode the corpus again, or leave --vectors out."
        )
    own = encoder.passages([texts[row] for row in rows])
    lengths = np.linalg.norm(own, axis=1)
    cosines = (vectors[rows] * own).sum(1) / (norms[rows] * lengths)
    for row, cosine, given, length in zip(rows, cosines, norms[rows], lengths, strict=True):
        if not cosine >= MIN_COSINE:
            raise BuildError(
                f"--vectors: passage {first_row + row} has another vector (cosine {cosine:.3f} with the encoder's). "
                "Fix: give the corpus in the order in which it was encoded, the same encoder and its prefixes."
            )
        if abs(given / length - 1) > MAX_STRETCH:  # documents are ranked by the inner product
            raise BuildError(
                f"--vectors: the vector of passage {first_row + row} has the length {given:.3f}, the encoder's has "
                f"{length:.3f}. Fix: normalise them as the encoder does, or leave --vectors out."
            )
