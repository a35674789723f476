"""Build a bm25s index in memory; an interrupted build starts over.

The scores need the document frequencies of the whole corpus, and bm25s writes nothing to disk before it has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..backends.bm25s import Tokenizer, import_bm25s
from ..corpus import Scan, passages
from .base import BuildOptions, Progress, no_words


def build(scan: Scan, folder: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
    """Write ``bm25s/``. bm25s applies k1 and b when it indexes."""
    tokenize = Tokenizer()
    model = import_bm25s().BM25(method="lucene", k1=options.k1, b=options.b)
    words = [tokenize(contents) for _, contents in passages(scan.documents)]
    if not any(words):
        raise no_words()
    model.index(words, show_progress=False)
    model.save(str(folder / "bm25s"))
    progress(scan.passages, scan.passages)
    return {"k1": options.k1, "b": options.b, "method": "lucene"}
