"""The corpus: JSON lines ``{"id", "contents"}``, checked when an index is built, read by offset when it is served."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import logging
import os
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import orjson

from .backends.base import NoLookupError
from .errors import RetrieverError

SHOWN_BAD_LINES = 20

log = logging.getLogger("retriever_server")


class CorpusError(RetrieverError):
    """The corpus cannot be used. The message names the file, the lines and the fix."""


@dataclass
class Scan:
    """Result of one pass over a corpus. ``starts[row]`` is the byte offset of that passage's line."""

    documents: Path
    """The uncompressed corpus."""
    starts: np.ndarray
    id_hashes: np.ndarray
    sha256: str
    size: int
    bad_lines: list[tuple[int, str]] = field(default_factory=list)
    bad_line_count: int = 0
    untitled: int = 0
    """Passages without a line end between title and text."""

    @property
    def passages(self) -> int:
        return len(self.starts)


def open_lines(path: Path) -> BinaryIO:
    """Open the corpus as a binary stream, decompressed if its name ends in ``.gz``."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def id_hash(passage_id: str) -> int:
    """Return a 64-bit hash of an id that is the same in every process, unlike Python's."""
    return int.from_bytes(hashlib.blake2b(passage_id.encode(), digest_size=8).digest(), "little")


def check_line(line: bytes) -> tuple[str, str]:
    """Return ``(id, contents)`` of one corpus line.

    Raises:
        CorpusError: not a JSON object with the strings ``id`` and ``contents``.
    """
    try:
        passage = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise CorpusError(f"not JSON: {error}") from None
    if not isinstance(passage, dict):
        raise CorpusError(f'expected an object {{"id", "contents"}}, found {type(passage).__name__}')
    for name in ("id", "contents"):
        if name not in passage:
            raise CorpusError(f'"{name}" is missing')
        if not isinstance(passage[name], str):
            raise CorpusError(f'"{name}" must be a string, found {type(passage[name]).__name__}')
    return passage["id"], passage["contents"]


def scan(path: Path, copy_to: Path | None = None, progress: Callable[[int, int], None] | None = None) -> Scan:
    """Read the corpus once: check and hash every line, and record where each passage starts.

    Args:
        path: corpus, plain or ``.gz``. Blank lines are skipped.
        copy_to: file that gets the lines uncompressed, for random access.
        progress: called with (passages, bytes) every 20,000 lines.

    Returns:
        The scan without the bad lines, which are counted; the first ones are in ``bad_lines``.

    Raises:
        CorpusError: the file is of another encoding, is not whole gzip or has no passage or no text, or two passages
            share an id.
    """
    starts, hashes, digest, position = array("Q"), array("Q"), hashlib.sha256(), 0
    bad_lines: list[tuple[int, str]] = []
    bad_line_count, untitled, has_text = 0, 0, False
    with ExitStack() as stack:
        lines = stack.enter_context(open_lines(path))
        copy = stack.enter_context(copy_to.open("wb")) if copy_to else None
        try:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    _refuse_encoding(path, line[:2])
                digest.update(line)
                if copy:
                    copy.write(line)
                text = _without_mark(line, number)
                if not text.isspace():
                    try:
                        passage_id, contents = check_line(text)
                        hashes.append(id_hash(passage_id))
                        starts.append(position + len(line) - len(text))
                        untitled += "\n" not in contents
                        has_text = has_text or bool(contents.strip())
                    except CorpusError as error:
                        bad_line_count += 1
                        if len(bad_lines) < SHOWN_BAD_LINES:
                            bad_lines.append((number, str(error)))
                position += len(line)
                if progress and number % 20_000 == 0:
                    progress(len(starts), position)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CorpusError(f"{path} is not a whole gzip file: {error}. Fix: download it again.") from error
    if not starts and not bad_line_count:
        raise CorpusError(f"{path} holds no passage. Fix: give JSON lines with id and contents.")
    if starts and not has_text:
        raise CorpusError(
            f"{path}: the contents of all {len(starts):,} passages are empty. Fix: give their text."
        )
    offsets, ids = np.frombuffer(starts, np.uint64), np.frombuffer(hashes, np.uint64)
    _refuse_duplicates(ids, path)
    documents, sha256 = copy_to or path, digest.hexdigest()
    return Scan(documents, offsets, ids, sha256, position, bad_lines, bad_line_count, untitled)


def _refuse_encoding(path: Path, head: bytes) -> None:
    """Raise where the first two bytes show what would make a bad line of every line."""
    if head == b"\x1f\x8b" and path.suffix != ".gz":
        raise CorpusError(f"{path} is compressed by gzip. Fix: rename it to {path.name}.gz.")
    if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in head:
        raise CorpusError(
            f"{path} is not UTF-8; it looks like UTF-16. Fix: `iconv -f UTF-16 -t UTF-8` makes UTF-8 of it."
        )


def _without_mark(line: bytes, number: int) -> bytes:
    """Return the line without the byte order mark that a file may begin with."""
    return line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _refuse_duplicates(id_hashes: np.ndarray, path: Path) -> None:
    order = np.argsort(id_hashes, kind="stable")
    same = np.flatnonzero(id_hashes[order][1:] == id_hashes[order][:-1])
    if len(same):
        pairs = sorted((int(order[first]), int(order[first + 1])) for first in same)[:SHOWN_BAD_LINES]
        shown = ", ".join(f"{earlier} and {later}" for earlier, later in pairs)
        raise CorpusError(
            f"{path}: {len(same)} passages have the id of an earlier one; the first are passages {shown} "
            "(counted from 0, blank and bad lines left out). Fix: make every id unique."
        )


def passages(path: Path) -> Iterator[tuple[bytes, str]]:
    """Yield ``(line, contents)`` of every good line, in the order of :func:`scan`'s rows."""
    with open_lines(path) as lines:
        for number, line in enumerate(lines, start=1):
            text = _without_mark(line, number)
            if text.isspace():
                continue
            try:
                _id, contents = check_line(text)
            except CorpusError:
                continue
            yield text, contents


def ids_by_hash(scan: Scan) -> np.ndarray:
    """Return ``[2, passages]``: the hashes of all ids in order, and the row of each."""
    order = np.argsort(scan.id_hashes, kind="stable")
    return np.stack([scan.id_hashes[order], order.astype(np.uint64)])


class CorpusDocuments:
    """Passages as JSON bytes, read from the corpus file; only the system's page cache holds them.

    Not memory-mapped: reading a mapping of a file that has been truncated kills the process (SIGBUS).
    """

    def __init__(self, corpus: Path, starts: Path, ids: Path | None = None) -> None:
        self._path = corpus
        self._ids = np.load(ids, mmap_mode="r") if ids else None
        self._starts = memoryview(np.load(starts, mmap_mode="r"))  # indexed faster than an array
        self._file = os.open(corpus, os.O_RDONLY)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)
        self._state = self._now()

    def __len__(self) -> int:
        return len(self._starts)

    def get(self, rows: Sequence[int]) -> list[bytes]:
        """Return the passages' JSON objects, byte for byte as in the corpus.

        Raises:
            CorpusError: the file cannot be read, or was changed after it was opened: offsets may point to others.
        """
        try:
            lines = [self._line(row) for row in rows]
            now = self._now()
        except OSError as error:  # such as a stale handle of a network file system
            raise self._unusable(f"cannot be read any more: {error.strerror}. Fix: restart.") from error
        if now != self._state:
            raise self._unusable("was changed while it is served. Fix: restore it and restart.")
        return lines

    def _unusable(self, reason: str) -> CorpusError:
        """Return an error, which clients read, with the file's name; its path is theirs who read the log."""
        log.error("%s %s", self._path, reason)
        return CorpusError(f"{self._path.name} {reason}")

    def by_id(self, passage_id: str) -> bytes | None:
        """Return the passage with this id, or None.

        Raises:
            NoLookupError: the index was built without ids.
        """
        if self._ids is None:
            raise NoLookupError("this index was built without ids. Fix: build it again with build_index.")
        wanted = np.uint64(id_hash(passage_id))
        hashes, rows = self._ids
        place = int(np.searchsorted(hashes, wanted))
        if place == len(hashes) or hashes[place] != wanted:
            return None
        (line,) = self.get([int(rows[place])])
        return line if orjson.loads(line)["id"] == passage_id else None

    def _line(self, row: int) -> bytes:
        start = self._starts[row]
        end = self._starts[row + 1] if row + 1 < len(self._starts) else self._state[0]
        # Up to the next passage: blank or bad lines may be between.
        return os.pread(self._file, end - start, start).partition(b"\n")[0].strip()

    def close(self) -> None:
        os.close(self._file)

    def _now(self) -> tuple[int, int]:
        state = os.fstat(self._file)
        return state.st_size, state.st_mtime_ns
