"""Settings of the server; the only place where their defaults stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from .java.analysis import ENGLISH, Analysis, Stemmer
from .java.jvm import DEFAULT_HEAP_MB
from .options import Options

BATCH = 64  # queries that the rollout client, or a server in front (remote), sends in one request

BackendName = Literal["bm25", "bm25s", "dense", "hybrid", "remote", "opensearch"]


class EngineOptions(Options):
    """Options that building an index and serving it share."""

    threads: int | None = Field(None, gt=0)
    """Threads that search, or that build an index; one per usable core if not given."""
    k1: float = 0.9
    """BM25: saturation of a term's frequency, at least 0. Lucene applies it when it serves, bm25s when it indexes."""
    b: float = 0.4
    """BM25: strength of the length normalisation, 0 to 1. Lucene applies it when it serves, bm25s when it indexes."""
    encoder: Path | None = None
    """dense, hybrid: folder of the encoder that the index is built with."""
    encoder_runtime: Literal["torch", "onnx"] = "torch"
    """dense, hybrid: runtime of the encoder, torch or onnx."""
    device: str = "cpu"
    """dense, hybrid: cpu, or one GPU such as cuda:0 for the encoder and the vectors in half precision."""

    @model_validator(mode="after")
    def _check_bm25(self) -> Self:
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ValueError(f"--k1 {self.k1} must be at least 0 and --b {self.b} between 0 and 1.")
        return self


class Settings(EngineOptions):
    """Settings of one server."""

    backend: BackendName
    """Back end: bm25, bm25s, dense, hybrid, remote or opensearch."""
    index: Path | None = None
    """Folder made by retriever_server.build_index."""
    corpus: Path | None = None
    """Corpus that the index was built from; not needed where the index holds a copy (corpus given as .gz)."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """TCP port; 0 picks a free one."""
    port_file: Path | None = None
    """File that gets the URL once the server is ready."""
    verify: Literal["sample", "full"] = "sample"
    """Check of corpus and index at start: sample reads sizes and sampled blocks, full every byte."""

    topk: int = Field(3, gt=0)
    """Documents per query where a request gives no topk."""
    max_topk: int = Field(100, gt=0)
    """Largest topk of a request, in documents."""
    max_queries: int = Field(1024, gt=0)
    """Largest number of queries in a request; more are answered with 413."""
    max_documents: int = Field(16 * 1024, gt=0)
    """Largest number of documents that a request may ask for, queries times topk; more are answered with 413. A batch
    of the rollout client, 64 queries of any topk that is allowed, always passes."""
    max_query_chars: int = Field(8192, gt=0)
    """Length in characters at which a query is truncated, and counted in the metrics."""
    max_body_bytes: int = Field(16 * 1024 * 1024, gt=0)
    """Largest request body in bytes; larger ones are answered with 413."""
    max_queue: int = Field(8192, gt=0)
    """Queries that may wait for the back end; beyond it requests are answered with 429 and Retry-After."""
    deadline_s: float = Field(60.0, gt=0)
    """Seconds that a request may take; later it is answered with 504."""
    body_timeout_s: float = Field(10.0, gt=0)
    """Seconds that a client may take to send a request, which is then answered with 408, or to read its answer."""
    cache_entries: int = Field(20_000, ge=0)
    """Cached answers, in queries; the least recently used are evicted first, and 0 disables the cache."""
    drain_s: int = Field(10, ge=0)
    """Seconds that running requests get at shutdown; three later the process ends in any case."""

    workers: int = Field(1, gt=0)
    """Serving processes that share the port."""
    api_key_file: Path | None = None
    """File with a key that requests must carry as Authorization: Bearer, X-API-Key or in the URL, http://:KEY@host."""
    tls_cert: Path | None = None
    """TLS certificate file (PEM); needs --tls-key."""
    tls_key: Path | None = None
    """TLS private-key file (PEM); needs --tls-cert."""
    access_log: Path | None = None
    """File that gets one JSON object per answered request; - is the standard output."""

    jvm_heap_mb: int = Field(DEFAULT_HEAP_MB, gt=0)
    """bm25, hybrid: largest Java heap in MiB; Lucene's mapped files are not part of it."""
    language: str = ENGLISH.language
    """bm25, an index of Pyserini: language that it was indexed with, such as de or zh."""
    stemmer: Stemmer = ENGLISH.stemmer
    """bm25, an index of Pyserini: English stemmer that it was indexed with, porter, krovetz or none."""
    keep_stopwords: bool = ENGLISH.keep_stopwords
    """bm25, an index of Pyserini: it was indexed with English stop words."""
    pretokenized: bool = ENGLISH.pretokenized
    """bm25, an index of Pyserini: it was indexed as words between spaces."""
    gpu_memory_share: float = Field(0.5, gt=0, le=1)
    """dense, hybrid: largest share of the GPU's memory that vectors and a torch encoder may take, 0 to 1."""
    search_effort: int = Field(64, gt=0, validation_alias=AliasChoices("search_effort", "effort"))
    """nprobe (IVF lists) or efSearch (HNSW candidates) of an approximate index; higher finds more and is slower."""
    fusion_depth: int = Field(100, gt=0)
    """hybrid: documents taken from each of the two rankings."""
    remote_urls: str = ""
    """remote: URLs of the servers with the corpus' parts, separated by commas. opensearch: URL of the index. A login,
    user:password, or :KEY of an --api-key-file, belongs into the environment variable RETRIEVER_REMOTE_LOGIN."""

    @property
    def most_documents(self) -> int:
        """Return how many documents a request may ask for."""
        return max(self.max_documents, BATCH * self.max_topk)

    def shaping_answers(self) -> dict[str, Any]:
        """Return the settings on which answers depend, given the index."""
        of_backend = {
            "bm25": {"k1", "b"},
            "dense": {"search_effort"},
            "hybrid": {"k1", "b", "search_effort", "fusion_depth"},
        }
        foreign = {
            name for name, value in self.analysis()._asdict().items() if value != getattr(ENGLISH, name)
        }
        return self.model_dump(include=of_backend.get(self.backend, set()) | {"max_query_chars"} | foreign)

    def analysis(self) -> Analysis:
        """Return how queries become terms."""
        return Analysis(self.language, self.stemmer, self.keep_stopwords, self.pretokenized)

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        if self.topk > self.max_topk:
            raise ValueError(f"--topk {self.topk} is above --max-topk {self.max_topk}.")
        if self.max_queue < self.max_queries:
            raise ValueError(
                f"--max-queue {self.max_queue} is below --max-queries {self.max_queries}: "
                "the largest request would never be admitted."
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key go together; one is missing.")
        return self
