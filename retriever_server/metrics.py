"""What the server counts, in Prometheus' terms."""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """One server's metrics in a registry of their own, so that two servers in a process do not mix."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        name = "retriever_{}".format
        requests = Counter(
            name("requests"), "Answers of POST /retrieve by HTTP status", ["status"], registry=registry
        )
        self.requests = cache(
            requests.labels
        )  # by status; finding the child each time takes longer than counting
        self.request_seconds = Histogram(
            name("request_seconds"),
            "POST /retrieve, body read to answer ready",
            buckets=SECONDS,
            registry=registry,
        )
        self.queries = Counter(name("queries"), "Queries admitted", registry=registry)
        self.truncated = Counter(
            name("queries_truncated"), "Queries cut at --max-query-chars", registry=registry
        )
        self.cache_hits = Counter(
            name("cache_hits"),
            "Queries answered from the cache or a twin in the same request",
            registry=registry,
        )
        self.joined = Counter(
            name("joined"), "Queries that joined another request's flight", registry=registry
        )
        self.cancelled = Counter(
            name("cancelled"), "Queries dropped because nobody waited any more", registry=registry
        )
        self.queued = Gauge(name("queued"), "Queries waiting for the back end", registry=registry)
        self.backend_seconds = Histogram(
            name("backend_seconds"), "One call of the back end", buckets=SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            name("batch_size"), "Queries in one call of the back end", buckets=POWERS, registry=registry
        )
        self.backend_errors = Counter(
            name("backend_errors"), "Calls of the back end that raised", registry=registry
        )
        self.ready = Gauge(name("ready"), "1 while /retrieve is served", registry=registry)

    def text(self) -> bytes:
        """The exposition format that Prometheus scrapes."""
        return generate_latest(self.registry)
