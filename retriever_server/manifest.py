"""The manifest of an index: its corpus, settings, package versions and files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from .errors import RetrieverError

FORMAT = 1
FILE = "manifest.json"
LUCENE_FILES = ("lucene/", "rows.npy")
SAMPLES, SAMPLE_BYTES = 64, 64 * 1024


class IndexMismatchError(RetrieverError):
    """An index cannot be served with this corpus or these settings. The message says why and what to do."""


class FileState(TypedDict):
    """Size in bytes of a file, :func:`sample_hash` and SHA-256."""

    size: int
    sample: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Identity of an index, which a server checks before it opens the index."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    backend: str
    passages: int
    corpus_name: str
    corpus_size: int
    """Bytes, uncompressed."""
    corpus_sha256: str
    corpus_sample: str
    """:func:`sample_hash` of the uncompressed corpus, whose cost does not depend on its size."""
    skipped_lines: int
    settings: dict[str, Any]
    """Build settings of the back end, such as the analyser or the encoder."""
    versions: dict[str, str]
    files: dict[str, FileState] = field(default_factory=dict)
    """By relative path."""
    format: int = FORMAT

    @property
    def version(self) -> str:
        """Short hash of corpus, settings and files: it differs between indexes that may answer differently.

        Lucene's files hold random ids and the order in which threads wrote, on which no answer depends: corpus and
        settings tell BM25 indexes apart, and hybrid ones with the vectors.
        """
        others = {name: state for name, state in self.files.items() if not name.startswith(LUCENE_FILES)}
        files = {} if self.backend == "bm25" else others
        text = json.dumps([self.backend, self.corpus_sha256, self.settings, files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def sample_hash(path: Path) -> str:
    """Return a SHA-256 of the size and of evenly spaced blocks of the file; of all bytes if it is small."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= SAMPLES * SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for i in range(SAMPLES):
                file.seek(i * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def full_hash(path: Path) -> str:
    """Return the SHA-256 of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(index: Path, manifest: Manifest, left_out: Sequence[str] = ()) -> None:
    """Add the index's files to the manifest and write it; ``left_out`` in the folder are no part of the index."""
    paths = sorted(
        path
        for path in index.rglob("*")
        if path.is_file()
        and path.name not in (FILE, "write.lock")
        and path.relative_to(index).parts[0] not in left_out
    )
    files: dict[str, FileState] = {
        str(path.relative_to(index)): {
            "size": path.stat().st_size, "sample": sample_hash(path), "sha256": full_hash(path),
        }
        for path in paths
    }  # fmt: skip
    complete = dataclasses.replace(manifest, files=files)
    temporary = index / (FILE + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(complete), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(index / FILE)


def read(index: Path) -> Manifest:
    """Read the manifest of an index folder.

    Raises:
        IndexMismatchError: the folder holds no finished index, or one of another format.
    """
    rebuild = "Fix: build it with python -m retriever_server.build_index."
    if not (index / FILE).is_file():
        raise IndexMismatchError(f"--index {index} holds no finished index ({FILE} is missing). {rebuild}")
    try:
        text = (index / FILE).read_text(encoding="utf-8")
        values = json.loads(text)
        if values.get("format") != FORMAT:
            found = f"--index {index} has format {values.get('format')}, this server reads {FORMAT}"
            raise IndexMismatchError(f"{found}. {rebuild}")
        return TypeAdapter(Manifest).validate_json(text)
    except (ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise IndexMismatchError(f"{index / FILE} is damaged: {reason}. {rebuild}") from None


def check(index: Path, manifest: Manifest, backend: str, corpus: Path, full: bool = False) -> None:
    """Refuse an index that is damaged, or that was built from another corpus or for another back end.

    Args:
        corpus: the uncompressed file that documents are read from.
        full: hash every byte instead of samples; takes a few seconds per GiB.

    Raises:
        IndexMismatchError: names the file and the difference.
    """
    if manifest.backend != backend:
        raise IndexMismatchError(
            f"--index {index} was built for --backend {manifest.backend}, not {backend}. "
            f"Fix: serve it with --backend {manifest.backend} or build another."
        )
    for name, expected in manifest.files.items():
        path = index / name
        if not path.is_file():
            raise IndexMismatchError(f"{path} is missing from the index. Fix: build the index again.")
        if path.stat().st_size != expected["size"]:
            raise IndexMismatchError(
                f"{path} has {path.stat().st_size} bytes, the manifest says {expected['size']}: "
                "damaged or half-copied. Fix: copy or build the index again."
            )
        actual = full_hash(path) if full else sample_hash(path)
        if actual != expected["sha256" if full else "sample"]:
            raise IndexMismatchError(f"{path} was changed after the build. Fix: build the index again.")
    if not corpus.is_file():
        raise IndexMismatchError(
            f"--corpus {corpus} is not a file; documents are read from it. Fix: give the one the index was "
            f"built from ({manifest.corpus_name}, {manifest.corpus_size} bytes)."
        )
    if corpus.stat().st_size != manifest.corpus_size:
        raise IndexMismatchError(
            f"--corpus {corpus} has {corpus.stat().st_size} bytes, the index was built from "
            f"{manifest.corpus_size}: another or a truncated corpus. Fix: give the right one or build again."
        )
    actual = full_hash(corpus) if full else sample_hash(corpus)
    if actual != (manifest.corpus_sha256 if full else manifest.corpus_sample):
        raise IndexMismatchError(
            f"--corpus {corpus} has the right size but other content than the one the index was built from "
            f"(sha256 {manifest.corpus_sha256[:16]}…). Fix: give the right one or build again."
        )
