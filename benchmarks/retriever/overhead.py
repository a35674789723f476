"""What a BM25 server costs beyond Lucene: slices of load on it and of bare Lucene calls, alternated.

    python -m benchmarks.retriever.overhead --server ours=URL@PID --index DIR --queries FILE

``DIR`` is the server's index. Bare is what Anserini's searcher asks of Lucene for a query (parse, search by score and
id), in as many threads as the server searches with; hits and documents are not read. ``Lucene`` loops inside Java,
``Lucene, a call each`` is called from Python for every query. Rows go to ``benchmarks/retriever/load.csv``; CPU time of
the calling threads, so Java's compiler counts for the server alone.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from benchmarks.arguments import add_option
from benchmarks.retriever.load import Target, measure, parser_of
from benchmarks.table import append_rows
from retriever_server.backends.bm25 import LUCENE, LuceneIndex
from retriever_server.java import loop

TOP_K = 3
WARM_UP = 10_000  # queries until Lucene is compiled
BARE = {"Lucene": 32, "Lucene, a call each": 1}  # queries of one call from Python


def bare(search: Callable[[str, int], str], queries: list[str], batch: int) -> float:
    """Return the CPU milliseconds of this thread per query."""
    start = time.thread_time()
    for first in range(0, len(queries), batch):
        search("\n".join(queries[first : first + batch]), TOP_K)
    return (time.thread_time() - start) * 1000 / len(queries)


def bare_slice(
    search: Callable[[str, int], str], pool: ThreadPoolExecutor, threads: int, queries: list[str], name: str
) -> tuple[float, float]:
    """Return (seconds, CPU milliseconds per query) of all threads together."""
    start = time.perf_counter()
    parts = [queries[number::threads] for number in range(threads)]
    cpu = statistics.mean(pool.map(lambda part: bare(search, part, BARE[name]), parts))
    return time.perf_counter() - start, cpu


def main() -> None:
    parser = parser_of(__doc__, rounds=6)
    text = "index that is also searched without a server"
    parser.add_argument("--index", type=Path, required=True, help=text)
    add_option(parser, "--clients", 64, "clients at a time", "CLIENTS")
    add_option(parser, "--bare-queries", 2000, "queries in one bare slice, all threads together", "QUERIES")
    options = parser.parse_args()
    options.query_list = queries = options.queries.read_text(encoding="utf-8").splitlines()
    options.rate = options.duplicates = 0.0
    targets = [Target.parse(text) for text in options.server]
    index = LuceneIndex(options.index / "lucene", k1=0.9, b=0.4)
    unread = loop.unbound(loop.OBJECT, "toString", loop.STRING)
    unread = unread.asType(loop.signature(loop.STRING, f"{LUCENE}.TopFieldDocs"))
    search = loop.for_each_line(loop.then(index.ranked, unread))
    threads = len(os.sched_getaffinity(0))
    names = [*BARE, *(target.name for target in targets)]
    seen: dict[str, list[float]] = {name: [] for name in names}
    with ThreadPoolExecutor(threads) as pool:
        for name in BARE:
            bare_slice(search, pool, threads, queries[:WARM_UP], name)
        for number in tqdm(range(options.rounds), unit="round"):
            forward = number % 2 == 0
            rows = [
                measure(t, options, options.clients, seed=number) for t in targets[:: 1 if forward else -1]
            ]
            first = number * options.bare_queries % (len(queries) - options.bare_queries)
            chosen = queries[first : first + options.bare_queries]
            for name in list(BARE)[:: 1 if forward else -1]:
                took, cpu = bare_slice(search, pool, threads, chosen, name)
                rows.append(
                    replace(
                        rows[0], server=name, clients=threads, seconds=round(took, 2), queries=len(chosen),
                        qps=round(len(chosen) / took, 1), p50_ms=0.0, p95_ms=0.0, p99_ms=0.0,
                        cpu_ms_per_query=round(cpu, 3), outside_cpu=0.0, rss_anon_mb=0.0, rss_file_mb=0.0,
                        errors=0, throttled=0,
                    )
                )  # fmt: skip
            for row in rows:
                seen[row.server].append(row.cpu_ms_per_query)
            append_rows(options.csv, map(asdict, rows))
    for name, values in seen.items():
        over = [statistics.median(a / b for a, b in zip(values, seen[one], strict=True)) for one in BARE]
        shown = f"{min(values):.3f} to {max(values):.3f}"
        print(
            f"{name:>20} {statistics.median(values):.3f} CPU-ms per query ({shown}), {over[0]:.2f} of Lucene's, "
            f"{over[1]:.2f} of its with a call each"
        )


if __name__ == "__main__":
    main()
