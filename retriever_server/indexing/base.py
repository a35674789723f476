"""What every builder gets and may raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[int, int], None]
"""Called with (passages done, passages in all)."""


WORK = "work"
"""Folder inside the unfinished index for what a stopped build goes on from; gone when the index is whole."""


class BuildError(RuntimeError):
    """A build failed. The message says why; what was finished is kept for the next try."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of the builders; each reads those that concern it."""

    threads: int = 1
    heap_mb: int = 2048
    """Largest Java heap while building."""
    one_segment: bool = True
    """Merge Lucene's index into one segment: a third less work per query for a longer build."""
    k1: float = 0.9
    b: float = 0.4
    """BM25 of bm25s; Lucene takes both when it serves."""
    encoder: Path | None = None
    encoder_prefixes: str = "auto"
    encoder_runtime: str = "torch"
    device: str = "cpu"
    vectors: Path | None = None
    """FAISS's flat index of the corpus, in place of encoding it."""
    factory: str = ""
    """FAISS factory string of an approximate index, e.g. ``IVF4096,SQ8``; empty: exact search only."""
