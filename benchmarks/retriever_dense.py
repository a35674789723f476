"""CPU time of the exact dense scan, against a bare matrix product and FAISS's flat index, alternated.

    python -m benchmarks.retriever_dense [--vectors 200000] [--width 768]

Random unit vectors, queries near stored ones; no encoder. Rows go to ``benchmarks/retriever_dense.csv``.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from tqdm import tqdm

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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--vectors",
        type=int,
        default=200_000,
        metavar="VECTORS",
        help="stored vectors (default: %(default)s)",
    )
    parser.add_argument(
        "--width", type=int, default=768, metavar="NUMBERS", help="numbers of a vector (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        metavar="TIMES",
        help="repeats of each measurement (default: %(default)s)",
    )
    parser.add_argument(
        "--csv",
        type=Path,
        default=Path(__file__).with_suffix(".csv"),
        help="file of the rows (default: %(default)s)",
    )
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
    with options.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["device", "vectors", "width", "batch", "scan", "cpu_ms_per_query", "lowest", "highest"]
        )
        for batch in tqdm(BATCHES, unit="batch size"):
            queries = stored[:batch] + 0.05 * rng.standard_normal((batch, options.width), dtype=np.float32)
            seen: dict[str, list[float]] = {name: [] for name in scans}
            for _ in range(options.rounds):
                for name, scan in scans.items():
                    seen[name].append(cpu_ms(scan, queries))
            for name, values in seen.items():
                middle = statistics.median(values)
                row = [round(value, 2) for value in (middle, min(values), max(values))]
                writer.writerow([device, options.vectors, options.width, batch, name, *row])
                file.flush()


if __name__ == "__main__":
    main()
