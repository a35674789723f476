"""CPU time of the exact dense scan, against a bare matrix product and FAISS's flat index, alternated.

    python -m benchmarks.retriever.dense [--vectors 200000] [--width 768]

Random unit vectors, queries near stored ones; no encoder. Rows go to ``benchmarks/retriever/dense.csv``.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from tqdm import tqdm

from benchmarks.arguments import add_option, command_parser
from benchmarks.table import append_rows
from retriever_server.backends.dense import EXTRA, FlatScan

TOP_K = 3
BATCHES = (1, 16, 64, 128)
Scan = Callable[[np.ndarray], object]


def cpu_ms(scan: Scan, queries: np.ndarray) -> float:
    """Return the CPU milliseconds of this process per query."""
    time.sleep(0.3)  # the threads of the call before may still spin
    start = time.process_time()
    scan(queries)
    return (time.process_time() - start) * 1000 / len(queries)


def main() -> None:
    parser = command_parser(__doc__)
    add_option(parser, "--vectors", 200_000, "stored vectors", "VECTORS")
    add_option(parser, "--width", 768, "numbers of a vector", "NUMBERS")
    add_option(parser, "--rounds", 3, "repeats of each measurement", "TIMES")
    add_option(parser, "--csv", Path(__file__).with_suffix(".csv"), "file of the rows")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    stored = rng.standard_normal((options.vectors, options.width), dtype=np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    flat = faiss.IndexFlatIP(options.width)
    flat.add(stored)
    ours = FlatScan(stored)
    scans: dict[str, Scan] = {
        "product": lambda queries: queries @ stored.T,
        "ours": lambda queries: ours.propose(queries, TOP_K + EXTRA),
        "faiss": lambda queries: flat.search(queries, TOP_K),
    }
    device = f"CPU, {os.cpu_count()} shared cores, {platform.machine()}"
    options.csv.unlink(missing_ok=True)
    for batch in tqdm(BATCHES, unit="batch size"):
        queries = stored[:batch] + 0.05 * rng.standard_normal((batch, options.width), dtype=np.float32)
        seen: dict[str, list[float]] = {name: [] for name in scans}
        for _ in range(options.rounds):
            for name, scan in scans.items():
                seen[name].append(cpu_ms(scan, queries))
        for name, values in seen.items():
            row = {"device": device, "vectors": options.vectors, "width": options.width, "batch": batch}
            row |= {"scan": name, "cpu_ms_per_query": round(statistics.median(values), 2)}
            row |= {"lowest": round(min(values), 2), "highest": round(max(values), 2)}
            append_rows(options.csv, [row])


if __name__ == "__main__":
    main()
