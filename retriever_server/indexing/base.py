"""Options and errors of the index builders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ..corpus import Scan
from ..errors import RetrieverError
from ..settings import EngineOptions

Progress = Callable[[int, int], None]
"""Called with (passages done, passages in total)."""

WORK = "work"
"""Folder inside the unfinished index for the state an interrupted build resumes from; removed at the end."""


class BuildError(RetrieverError):
    """A build failed. The message says why; finished parts are kept for the next try."""


def no_words() -> BuildError:
    """Return the error of a corpus in which every query would find nothing."""
    return BuildError(
        "the corpus holds no word that BM25 searches, stop words and signs alone. Fix: give the passages' text, or use "
        "--backend dense."
    )


class BuildOptions(EngineOptions):
    """Options of the builders; each reads those of its back end."""

    heap_mb: int = Field(2048, gt=0)
    """bm25, hybrid: largest Java heap in MiB while building."""
    one_segment: bool = True
    """bm25, hybrid: merge Lucene's segments into one: slower to build, a third less work per query."""
    encoder_prefixes: Literal["auto", "e5", "none"] = "auto"
    """dense, hybrid: prefixes of queries and passages: e5, none, or auto (as the folder's files say)."""
    vectors: Path | None = None
    """dense, hybrid: flat FAISS index of the corpus, such as e5_Flat.index, used instead of encoding it."""
    factory: str = ""
    """dense, hybrid: FAISS factory string of an approximate index, such as IVF4096,SQ8; exact search if not given."""


Build = Callable[[Scan, Path, Progress], dict[str, Any]]
"""Called with (scan of the corpus, output folder, progress); returns the settings of the build."""

Builder = Callable[[BuildOptions], Build]
"""Refuses what can be known to fail before the corpus is read, which takes minutes; returns the build."""
