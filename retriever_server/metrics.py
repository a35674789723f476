"""Prometheus metrics of the server."""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Metrics of one server, in a registry of its own: several servers may share a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        answers = "Answers of POST /retrieve and of /document by path and HTTP status"
        requests = Counter("retriever_requests", answers, ["path", "status"], registry=self.registry)
        # By path and status: looking up the labelled child takes longer than counting.
        self.requests = cache(requests.labels)
        self.unauthorized = self._counter("unauthorized", "Requests answered with 401")
        answered = "POST /retrieve, first bytes to answer ready; a body that arrives late counts"
        self.request_seconds = self._histogram("request_seconds", answered, SECONDS)
        self.queries = self._counter("queries", "Queries admitted")
        self.truncated = self._counter("queries_truncated", "Queries cut at --max-query-chars")
        repeated = "Queries answered from the cache or a twin in the same request"
        self.cache_hits = self._counter("cache_hits", repeated)
        self.joined = self._counter("joined", "Queries that joined another request's flight")
        self.cancelled = self._counter("cancelled", "Queries dropped because nobody waited any more")
        self.queued = Gauge("retriever_queued", "Queries waiting for the back end", registry=self.registry)
        self.backend_seconds = self._histogram("backend_seconds", "One call of the back end", SECONDS)
        self.batch_size = self._histogram("batch_size", "Queries in one call of the back end", POWERS)
        self.backend_errors = self._counter("backend_errors", "Calls of the back end that raised")
        self.ready = Gauge("retriever_ready", "1 while /retrieve is served", registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"retriever_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"retriever_{name}", text, buckets=buckets, registry=self.registry)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' exposition format."""
        return generate_latest(self.registry)
