"""Build a Lucene index with Anserini: in shards, so that an interrupted build resumes, merged at the end."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.bm25 import LuceneIndex
from ..corpus import CorpusError, Scan, id_hash, passages
from ..errors import first_line
from ..java import jvm
from .base import WORK, Build, BuildError, BuildOptions, Progress, no_words

SHARD_PASSAGES = 500_000
# A program that becomes another one, which the kernel kills (PR_SET_PDEATHSIG, SIGKILL) when the build dies: Java would
# go on writing where the next build writes. Not a preexec_fn, which is not safe in a process with Java's threads.
ENDS_WITH_BUILD = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def prepare(options: BuildOptions) -> Build:
    """Return the build.

    Raises:
        JavaError: no runtime, jar or pyjnius.
    """
    jvm.installed()
    return partial(_build, options)


def _build(options: BuildOptions, scan: Scan, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write ``lucene/`` and ``rows.npy`` into ``folder``; finished shards of an interrupted build are reused.

    Returns:
        The settings of the build, for the manifest.
    """
    shards = folder / WORK / "shards"
    shards.mkdir(exist_ok=True)
    lines = (line for line, _ in passages(scan.documents))
    done: list[Path] = []
    for number, first in enumerate(range(0, scan.passages, SHARD_PASSAGES)):
        shard = shards / f"{number:05d}"
        count = min(SHARD_PASSAGES, scan.passages - first)
        part = itertools.islice(lines, count)
        if shard.is_dir():
            next(itertools.islice(part, count, count), None)  # advance past its lines
        else:
            _index_shard(part, count, shard, options)
        done.append(shard)
        progress(first + count, scan.passages)
    _merge(done, folder / "lucene", options)
    _write_rows(folder, scan, options)
    return {"analyzer": "anserini-english-porter", "lucene": _lucene_version()}


def _lucene_version() -> str:
    return str(jvm.java_class("org.apache.lucene.util.Version").LATEST.toString())


def _index_shard(lines: Iterator[bytes], count: int, shard: Path, options: BuildOptions) -> None:
    """Index ``count`` passages with Anserini's IndexCollection in a child process."""
    source, target = shard.with_suffix(".in"), shard.with_suffix(".tmp")
    for leftover in (source, target):
        shutil.rmtree(leftover, ignore_errors=True)
    source.mkdir()
    threads = options.threads or len(os.sched_getaffinity(0))
    per_file = -(-count // threads)
    for part in range(threads):
        with (source / f"{part:03d}.jsonl").open("wb") as file:
            file.writelines(line.rstrip() + b"\n" for line in itertools.islice(lines, per_file))
    command = [
        str(jvm.java_home() / "bin" / "java"), f"-Xmx{options.heap_mb}m", *jvm.OPTIONS, "-cp", str(jvm.anserini_jar()),
        "io.anserini.index.IndexCollection", "-collection", "JsonCollection", "-input", str(source),
        "-index", str(target), "-generator", "DefaultLuceneDocumentGenerator",
        "-threads", str(threads), "-memoryBuffer", str(max(64, options.heap_mb // 4)),
    ]  # fmt: skip
    command = [sys.executable, "-I", "-S", "-c", ENDS_WITH_BUILD, str(os.getpid()), *command]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", env=jvm.environment())
    output = run.stdout + run.stderr
    if run.returncode != 0 or not _is_complete(target, count, output, options):
        tail = "\n".join(output.strip().splitlines()[-15:])
        raise BuildError(f"Anserini failed on a shard (exit code {run.returncode}):\n{tail}")
    shutil.rmtree(source)
    target.rename(shard)


def _is_complete(shard: Path, count: int, output: str, options: BuildOptions) -> bool:
    """Return whether a shard holds every passage that is not empty: Anserini also calls a failed commit complete."""
    empty = re.search(r"empty: +(\d+)", output)
    if empty is None:
        return False
    try:
        index = LuceneIndex(shard, options.k1, options.b, options.heap_mb)
    except jvm.java_exception():
        return False
    found = len(index)
    index.close()
    return found == count - int(empty.group(1))


def _merge(shards: list[Path], target: Path, options: BuildOptions) -> None:
    """Merge all shards into one index. Scores do not depend on how the corpus was divided."""
    shutil.rmtree(target, ignore_errors=True)
    jvm.start(options.heap_mb)
    try:
        _merge_in_java(shards, target, options.one_segment)
    except jvm.java_exception() as error:
        raise BuildError(f"Lucene failed to merge the shards: {first_line(error)}") from error


def _merge_in_java(shards: list[Path], target: Path, one_segment: bool) -> None:
    paths = jvm.java_class("java.nio.file.Paths")
    directories = jvm.java_class("org.apache.lucene.store.FSDirectory")
    writer_class = jvm.java_class("org.apache.lucene.index.IndexWriter")
    config = jvm.java_class("org.apache.lucene.index.IndexWriterConfig")()
    directory = directories.open(paths.get(str(target)))
    writer = writer_class(directory, config)
    opened = [directories.open(paths.get(str(shard))) for shard in shards]
    writer.addIndexes(*[jvm.cast("org.apache.lucene.store.Directory", one) for one in opened])
    if one_segment:
        writer.forceMerge(1)
    writer.commit()
    writer.close()
    for one in [*opened, directory]:
        one.close()


def _write_rows(folder: Path, scan: Scan, options: BuildOptions) -> None:
    """Write ``rows.npy``: Lucene document number -> row of the corpus, joined on the id's hash."""
    index = LuceneIndex(folder / "lucene", options.k1, options.b, options.heap_mb)
    if index.total_words == 0:
        raise no_words()
    ids = np.fromiter(map(id_hash, index.ids()), np.uint64, len(index))
    index.close()
    order = np.argsort(scan.id_hashes)
    position = np.searchsorted(scan.id_hashes, ids, sorter=order)
    rows = order[np.minimum(position, len(order) - 1)]
    if not np.array_equal(scan.id_hashes[rows], ids):
        raise CorpusError("the Lucene index holds ids that the corpus lacks. Fix: build it again.")
    np.save(folder / "rows.npy", rows.astype(np.int32 if scan.passages < 2**31 else np.int64))
