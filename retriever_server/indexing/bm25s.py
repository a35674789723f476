"""Build a bm25s index in memory; an interrupted build starts over.

The scores need the document frequencies of the whole corpus, and bm25s writes nothing to disk before it has them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ..backends.bm25s import Tokenizer, import_bm25s
from ..corpus import Scan, passages
from .base import Build, BuildOptions, Progress, no_words


def prepare(options: BuildOptions) -> Build:
    """Return the build.

    Raises:
        ImportError: bm25s or PyStemmer is not installed.
    """
    # bm25s applies k1 and b when it indexes.
    return partial(
        _build, options, Tokenizer(), import_bm25s().BM25(method="lucene", k1=options.k1, b=options.b)
    )


def _build(
    options: BuildOptions, tokenize: Tokenizer, model: Any, scan: Scan, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write ``bm25s/``."""
    words = [tokenize(contents) for _, contents in passages(scan.documents)]
    if not any(words):
        raise no_words()
    model.index(words, show_progress=False)
    model.save(str(folder / "bm25s"))
    progress(scan.passages, scan.passages)
    return {"k1": options.k1, "b": options.b, "method": "lucene"}
