"""Open the engine that the settings name: check the index against its manifest, then load it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .. import manifest as manifests
from ..corpus import CorpusDocuments
from ..errors import first_line
from ..java import jvm
from ..java.analysis import ENGLISH
from ..manifest import Manifest
from ..options import SettingsError
from ..settings import Settings
from .base import Engine, LocalEngine, Ranker

COPIED_DOCUMENTS = "documents.jsonl"
STARTS = "starts.npy"
IDS = "ids.npy"
APPROXIMATE = "faiss.index"
LATER_S = 1.0  # of another server beyond --deadline-s, so that a late one is a 504 and not an error of ours


def open_engine(settings: Settings, progress: Callable[[str], None] = lambda text: None) -> Engine:
    """Return the opened engine that ``settings`` name.

    Args:
        progress: called with a text when the next step begins.

    Raises:
        SettingsError: a path or URL is missing.
        IndexMismatchError: index, corpus and settings do not fit together.
        JavaError: BM25 without a usable Java runtime.
    """
    if settings.backend in REMOTE_ENGINES:
        return REMOTE_ENGINES[settings.backend](settings)
    if settings.index is None:
        raise SettingsError("--index is missing: the folder that retriever_server.build_index made.")
    index = settings.index
    if settings.backend == "bm25" and not (index / manifests.FILE).exists() and any(index.glob("segments_*")):
        return _pyserini(settings, index)
    if settings.analysis() != ENGLISH:
        raise SettingsError(
            "--language, --stemmer, --keep-stopwords and --pretokenized are for indexes of Pyserini; build_index "
            "indexes English with Porter's stemmer, without stop words. Fix: leave them out."
        )
    progress("reading the manifest")
    manifest = manifests.read(index)
    corpus = index / COPIED_DOCUMENTS if COPIED_DOCUMENTS in manifest.files else settings.corpus
    if corpus is None:
        raise SettingsError(f"--corpus is missing: {manifest.corpus_name}, which the index was built from.")
    progress("checking index and corpus")
    manifests.check(index, manifest, settings.backend, corpus, full=settings.verify == "full")
    ids = index / IDS if IDS in manifest.files else None
    documents = CorpusDocuments(corpus, index / STARTS, ids)
    if len(documents) != manifest.passages:
        raise manifests.IndexMismatchError(
            f"{index / STARTS} has {len(documents)} passages, the manifest {manifest.passages}. "
            "Fix: build the index again."
        )
    progress(f"opening the {settings.backend} index")
    ranker = RANKERS[settings.backend](settings, index, manifest)
    return LocalEngine(ranker, documents, manifest.version)


def _urls(settings: Settings) -> list[str]:
    urls = [url.strip() for url in settings.remote_urls.split(",") if url.strip()]
    if not urls:
        raise SettingsError("--remote-urls is missing: the other servers' URLs, separated by commas.")
    return urls


def _remote(settings: Settings) -> Engine:
    from .remote import RemoteEngine

    return RemoteEngine(_urls(settings), settings.deadline_s + LATER_S)


def _opensearch(settings: Settings) -> Engine:
    from .opensearch import OpenSearchEngine

    urls = _urls(settings)
    if len(urls) > 1:
        raise SettingsError("--remote-urls has several URLs, and an OpenSearch index has one. Fix: give one.")
    return OpenSearchEngine(urls[0], settings.deadline_s + LATER_S)


def _pyserini(settings: Settings, index: Path) -> Engine:
    """Open an index folder that Pyserini wrote: it has no manifest, and holds the documents itself."""
    from .bm25 import BM25Ranker, LuceneDocuments, LuceneIndex

    jvm.start(settings.jvm_heap_mb)
    try:
        lucene = LuceneIndex(index, settings.k1, settings.b, settings.jvm_heap_mb, settings.analysis())
        documents = LuceneDocuments(lucene)
    except ValueError as error:
        raise manifests.IndexMismatchError(f"--index {index}: {error}") from None
    except jvm.java_exception() as error:
        reason = first_line(error).rstrip(".")
        raise manifests.IndexMismatchError(
            f"--index {index} cannot be read by this Lucene: {reason}. "
            "Fix: build the index again with build_index; Pyserini 0.16 and older wrote Lucene 8's format."
        ) from error
    version = manifests.sample_hash(max(index.glob("segments_*")))[:16]
    return LocalEngine(BM25Ranker(lucene, np.arange(len(lucene)), settings.threads), documents, version)


def _bm25(settings: Settings, index: Path, manifest: Manifest) -> Ranker:
    from .bm25 import BM25Ranker, LuceneIndex

    lucene = LuceneIndex(index / "lucene", settings.k1, settings.b, settings.jvm_heap_mb)
    return BM25Ranker(lucene, np.load(index / "rows.npy", mmap_mode="r"), settings.threads)


def _bm25s(settings: Settings, index: Path, manifest: Manifest) -> Ranker:
    from .bm25s import BM25SRanker

    return BM25SRanker(index / "bm25s")


def _dense(settings: Settings, index: Path, manifest: Manifest) -> Ranker:
    from ..encoder import Encoder, limit_gpu_memory
    from ..encoder_spec import EncoderSpec
    from .dense import ApproximateIndex, DenseRanker, FlatScan, HalfPrecisionScan, VectorIndex

    if settings.encoder is None:
        raise SettingsError("--encoder is missing: the folder of the encoder the index was built with.")
    spec = EncoderSpec(**manifest.settings["encoder"])
    given = EncoderSpec.of(settings.encoder, "none")  # prefixes are the index's
    if differs := spec.difference(given):
        raise manifests.IndexMismatchError(
            f"--encoder {settings.encoder} has other {differs} than the encoder the index was built with. "
            "Fix: give that one, or build the index again."
        )
    vectors = np.load(index / "vectors.npy", mmap_mode="r")
    approximate, on_gpu = APPROXIMATE in manifest.files, settings.device != "cpu"
    if on_gpu and (settings.encoder_runtime == "torch" or not approximate):
        limit_gpu_memory(settings.device, settings.gpu_memory_share)
    scan: VectorIndex
    if approximate:
        scan = ApproximateIndex(index / APPROXIMATE, settings.search_effort)
    elif on_gpu:
        scan = HalfPrecisionScan(vectors, settings.device)
    else:
        scan = FlatScan(vectors, settings.threads)
    encoder = Encoder(settings.encoder, spec, settings.encoder_runtime, settings.device, settings.threads)
    return DenseRanker(encoder, vectors, scan)


def _hybrid(settings: Settings, index: Path, manifest: Manifest) -> Ranker:
    from .hybrid import HybridRanker

    return HybridRanker(
        _bm25(settings, index, manifest), _dense(settings, index, manifest), settings.fusion_depth
    )


RANKERS: dict[str, Callable[[Settings, Path, Manifest], Ranker]] = {
    "bm25": _bm25, "bm25s": _bm25s, "dense": _dense, "hybrid": _hybrid,
}  # fmt: skip
REMOTE_ENGINES: dict[str, Callable[[Settings], Engine]] = {"remote": _remote, "opensearch": _opensearch}
