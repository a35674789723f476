"""Settings of the server: the only place where its defaults stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class SettingsError(ValueError):
    """A setting is wrong. The message names it and the fix."""


@dataclass(frozen=True)
class Settings:
    """One server. Field names are the command line's, with ``-`` for ``_``."""

    backend: str
    index: Path | None = None
    corpus: Path | None = None
    """Documents are read from it; not needed where the index holds a copy (corpus given as .gz)."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 picks a free one."""
    port_file: Path | None = None
    """The bound URL is written there once the server is ready."""
    verify: str = "sample"
    """sample: sizes and sampled blocks of corpus and index are checked at start. full: every byte."""

    topk: int = 3
    """Documents per query where a request names no topk."""
    max_topk: int = 100
    max_queries: int = 1024
    """Queries in one request."""
    max_query_chars: int = 8192
    """A longer query is cut there, and counted in the metrics."""
    max_body_bytes: int = 16 * 1024 * 1024
    max_queue: int = 8192
    """Queries waiting for the back end; beyond it requests get 429 with Retry-After."""
    deadline_s: float = 60.0
    """Longest time a request may take; then 504."""
    body_timeout_s: float = 10.0
    """Longest time a client may take to send a request's body; then 408."""
    cache_entries: int = 20_000
    """Answers kept, least recently used first out; 0 keeps none."""
    drain_s: int = 10
    """Time that requests under way get at shutdown."""

    workers: int = 1
    """Serving processes behind one port."""
    api_key_file: Path | None = None
    """File with a key; requests must then carry it as ``Authorization: Bearer`` or ``X-API-Key``."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    access_log: Path | None = None
    """A JSON object per answered request is appended there; ``-`` is the standard output."""

    k1: float = 0.9
    b: float = 0.4
    """BM25's constants. bm25s fixes them when it indexes."""
    jvm_heap_mb: int = 512
    threads: int | None = None
    """Search threads; none means one per usable core."""

    encoder: Path | None = None
    """Folder of the encoder the index was built with."""
    encoder_runtime: str = "torch"
    """torch or onnx."""
    device: str = "cpu"
    """cpu, or one GPU like cuda:0: the encoder and the vectors, in half precision, go there."""
    gpu_memory_share: float = 0.5
    """Largest share of that GPU's memory."""
    effort: int = 64
    """nprobe or efSearch of an approximate index."""
    fusion_depth: int = 100
    """Rows that hybrid search takes from each of its two rankings."""
    remote_urls: str = ""
    """remote: other servers' URLs, separated by commas, each with a part of the corpus. opensearch: the index's."""

    def __post_init__(self) -> None:
        positive = (
            "topk",
            "max_topk",
            "max_queries",
            "max_query_chars",
            "max_body_bytes",
            "max_queue",
            "workers",
        )
        for name in (*positive, "deadline_s", "body_timeout_s", "jvm_heap_mb"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{flag(name)} is {getattr(self, name)}; it must be greater than 0.")
        if self.threads is not None and self.threads <= 0:
            raise SettingsError(f"--threads is {self.threads}; it must be greater than 0.")
        if self.topk > self.max_topk:
            raise SettingsError(f"--topk {self.topk} is above --max-topk {self.max_topk}.")
        if self.max_queue < self.max_queries:
            raise SettingsError(
                f"--max-queue {self.max_queue} is below --max-queries {self.max_queries}: "
                "the largest request would never be admitted."
            )
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"--port {self.port} must be between 0 and 65535.")
        if self.verify not in ("sample", "full"):
            raise SettingsError(f"--verify {self.verify} must be sample or full.")
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise SettingsError(f"--k1 {self.k1} must be at least 0 and --b {self.b} between 0 and 1.")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("--tls-cert and --tls-key go together; one is missing.")
        if not 0 < self.gpu_memory_share <= 1:
            raise SettingsError(f"--gpu-memory-share {self.gpu_memory_share} must be above 0 and at most 1.")
        for name in ("effort", "fusion_depth"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{flag(name)} is {getattr(self, name)}; it must be greater than 0.")
        if self.cache_entries < 0 or self.drain_s < 0:
            raise SettingsError("--cache-entries and --drain-s must be at least 0.")


def flag(name: str) -> str:
    """The command line's spelling of a setting."""
    return "--" + name.replace("_", "-")
