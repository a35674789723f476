"""Read JSON, YAML and parquet so that every error names the file and says what to do; write files in one step."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from sd_search_verl.errors import UserError, on_one_line


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        UserError: not JSON, or not UTF-8. OSError: it cannot be opened.
    """
    with reading(path, "JSON"):
        return json.loads(path.read_text(encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    """Return the OmegaConf config in a YAML file.

    Raises:
        UserError: not YAML, or not UTF-8. OSError: it cannot be opened.
    """
    from omegaconf import OmegaConf

    with reading(path, "YAML"):
        return OmegaConf.load(path)


def count_parquet_rows(path: Path) -> int:
    """Return the number of rows of a parquet file.

    Raises:
        UserError: not parquet, or cut short. OSError: it cannot be opened.
    """
    import pyarrow.parquet as pq

    with reading(path, "parquet"):
        return int(pq.ParquetFile(path).metadata.num_rows)


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file.

    Raises: as :func:`count_parquet_rows`.
    """
    import pyarrow.parquet as pq

    with reading(path, "parquet"):
        batches = pq.ParquetFile(path).iter_batches(batch_size=1024)
    while True:
        with reading(path, "parquet"):
            batch = next(batches, None)
        if batch is None:
            return
        yield from batch.to_pylist()


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON with indents, see :func:`write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file in one step, so that a process that is killed leaves the old content or the new, whole."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield where to write a file, which becomes ``path`` at the end of the block; an error leaves no part of it."""
    part = part_of(path)
    try:
        yield part
        part.replace(path)
    except BaseException:
        with suppress(OSError):  # where no part could be written
            part.unlink()
        raise


def part_of(path: Path) -> Path:
    """Return where a file or folder stands until it is whole, ``NAME.part`` beside it."""
    return path.with_name(f"{path.name}.part")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_new_folder(path: Path) -> None:
    """Make a folder for results, before the work that they take; one that is empty will do.

    Raises:
        UserError: it holds files, which the results would overwrite.
    """
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} holds files, which would be overwritten. Fix: give a new folder")
    path.mkdir(parents=True, exist_ok=True)


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file for this process, until it is closed; return False where another process holds it.

    A file system without locks cannot tell, and is said to be free.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        print(
            f"warning: no locks on this file system ({error}); nothing keeps two runs apart", file=sys.stderr
        )
    return True


class FolderLock:
    """A folder held by this process until it ends, so that two runs do not write the same files.

    Args:
        folder: made where it does not exist.
        name: of the lock, whose file names machine and process.
        what: writes there, for the error.
        wait_s: seconds to wait for a holder, whose end another process may not have noticed yet.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, what: str, wait_s: float = 0.0) -> None:
        self._path = folder / f".{name}.lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written: {error}. Fix: give a folder that this user may write"
            ) from error
        end = time.monotonic() + wait_s
        while not try_lock(self._file):
            if time.monotonic() >= end:
                self._file.seek(0)
                holder = self._file.read().strip() or "unknown"
                self._file.close()
                raise UserError(
                    f"{what} is writing {folder} ({holder}). Fix: wait for it or end it, or give another folder"
                )
            time.sleep(0.2)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def check(self) -> None:
        """Check that the folder is where it was.

        Raises:
            UserError: it was moved or removed.
        """
        try:
            in_place = os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            in_place = False
        if not in_place:
            raise UserError(
                f"{self._path.parent} was moved or removed while it was written. Fix: put it back, and start again"
            )

    def release(self) -> None:
        """Let others write."""
        self._file.close()


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the work whose result it gets; its content stays.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.exists()
    path.open("a").close()
    if not there:
        path.unlink()


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Name the file in the errors of its library, which do not; errors of the system name it themselves."""
    from yaml import YAMLError

    try:
        yield
    # Those of pyarrow are ValueErrors, or OSErrors without a number.
    except (ValueError, YAMLError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = on_one_line(error)[:200]
        raise UserError(
            f"{path} is not {kind} that can be read ({reason}). Fix: copy or write the file again"
        ) from error
