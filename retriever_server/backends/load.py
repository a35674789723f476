"""From settings to a ready engine: check the index against its manifest, open it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .. import manifest as manifests
from ..corpus import CorpusDocuments
from ..settings import Settings, SettingsError
from .base import Engine, LocalEngine, Ranker

COPIED_DOCUMENTS = "documents.jsonl"
STARTS = "starts.npy"

Progress = Callable[[str], None]


def load(settings: Settings, progress: Progress = lambda text: None) -> Engine:
    """Open the back end that ``settings`` name.

    Args:
        progress: told in words what is being done.

    Raises:
        SettingsError: unknown back end or a missing path.
        IndexMismatchError: index, corpus and settings do not fit together.
        JavaError: BM25 without a usable Java runtime.
    """
    if settings.backend not in RANKERS:
        raise SettingsError(f"--backend {settings.backend} is not one of {', '.join(sorted(RANKERS))}.")
    if settings.index is None:
        raise SettingsError("--index is missing: the folder that retriever_server.build_index made.")
    index = settings.index
    progress("reading the manifest")
    manifest = manifests.read(index)
    copied = index / COPIED_DOCUMENTS
    corpus = copied if copied.is_file() else settings.corpus
    if corpus is None:
        raise SettingsError(
            f"--corpus is missing: the file the index was built from ({manifest.corpus_name})."
        )
    progress("checking index and corpus")
    manifests.check(index, manifest, settings.backend, corpus, full=settings.verify == "full")
    documents = CorpusDocuments(corpus, index / STARTS)
    if len(documents) != manifest.passages:
        raise manifests.IndexMismatchError(
            f"{index / STARTS} has {len(documents)} passages, the manifest {manifest.passages}. "
            "Fix: build the index again."
        )
    progress(f"opening the {settings.backend} index")
    ranker = RANKERS[settings.backend](settings, index)
    return LocalEngine(ranker, documents, manifest.version)


def _bm25(settings: Settings, index: Path) -> Ranker:
    from .bm25 import BM25Ranker, LuceneIndex

    lucene = LuceneIndex(index / "lucene", settings.k1, settings.b, settings.jvm_heap_mb)
    return BM25Ranker(lucene, np.load(index / "rows.npy", mmap_mode="r"), settings.threads)


RANKERS: dict[str, Callable[[Settings, Path], Ranker]] = {"bm25": _bm25}
