"""The folders of a build: where an index may be written, who writes there, and how a finished one gets its name."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import explain
from ..manifest import FILE
from .base import BuildError

LOCK = "lock"
"""File in the unfinished index that its build holds locked."""


def check_place(index: Path, overwrite: bool, inputs: Mapping[str, Path | None]) -> None:
    """Refuse a path where no index can be put, or where something else than an index would be lost.

    Args:
        inputs: option -> what the build reads; a folder that is replaced is removed with all that is in it.

    Raises:
        BuildError: says what is there.
    """
    if index.name in ("", ".."):
        raise BuildError(
            f"--index {index} is no name. Fix: give the folder by its own, such as {index / 'index'}."
        )
    if index.exists() and not overwrite:
        raise BuildError(f"--index {index} exists. Fix: choose another folder or add --overwrite.")
    if index.is_file():
        raise BuildError(f"--index {index} is a file, not an index. Fix: choose another folder.")
    if index.is_symlink():
        raise BuildError(
            f"--index {index} is a link, which a finished index cannot replace. Fix: give {index.resolve()} itself."
        )
    old = index.with_name(index.name + ".old")
    if overwrite and old.exists():
        raise BuildError(
            f"{old} exists: the index before, if a replacement was interrupted. Fix: move it away, or remove it."
        )
    if index.exists():
        _check_replaced(index, inputs)


def _check_replaced(index: Path, inputs: Mapping[str, Path | None]) -> None:
    lucene = any(index.glob("segments_*"))  # an index that Pyserini wrote
    if not (index / FILE).exists() and not lucene and any(index.iterdir()):
        raise BuildError(
            f"--index {index} is no index ({FILE} is missing), so it is not replaced. Fix: choose another folder, or "
            "remove it."
        )
    for option, path in inputs.items():
        if path is not None and path.resolve().is_relative_to(index.resolve()):
            raise BuildError(
                f"{option} {path} lies in the index that would be replaced. Fix: move it, or choose another folder."
            )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an unfinished index.

    Raises:
        BuildError: another build holds it.
    """
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(f"another build is writing {folder}. Fix: wait for it.") from None
        yield


def put_in_place(partial: Path, index: Path, old: Path, overwrite: bool) -> bool:
    """Give the finished index its name; return whether there was an index before, which is now ``old``.

    Raises:
        BuildError: a folder cannot be renamed, such as a mount point, or ``index`` came to be since the build began and
            ``overwrite`` was not given. Says where the two indexes are.
    """
    replaced = index.exists()
    if replaced and not overwrite:
        raise BuildError(
            f"--index {index} came to be while {partial} was built, which holds the finished index. Fix: move one away."
        )
    try:
        if replaced:
            index.rename(old)
        partial.rename(index)
    except OSError as error:
        with suppress(OSError):
            if replaced and not index.exists():
                old.rename(index)
        before = f" and {old} the one before" if replaced and not index.exists() else ""
        raise BuildError(
            f"{explain(error)}. {partial} holds the finished index{before}. Fix: move it where it can stay, or remove "
            "the cause and start again; finished parts are kept."
        ) from error
    return replaced


def remove_all_but(folder: Path, *kept: str) -> None:
    """Remove everything in a folder but what has one of these names."""
    for path in folder.iterdir():
        if path.name not in kept:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
