"""Build a bm25s index: in memory, in one go, so a stopped build begins again.

Its scores need the document frequencies of the whole corpus, and bm25s keeps nothing on disk before it has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..backends import bm25s
from ..corpus import Scan, passages
from .base import BuildOptions, Progress


def build(
    documents: Path, scan: Scan, folder: Path, options: BuildOptions, progress: Progress
) -> dict[str, Any]:
    """Write ``bm25s/``. bm25s fixes k1 and b when it indexes."""
    texts = (contents for _, _, contents in passages(documents))
    bm25s.write(folder / "bm25s", texts, options.k1, options.b)
    progress(scan.passages, scan.passages)
    return {"k1": options.k1, "b": options.b, "method": "lucene"}
