"""The base class of this package's errors."""

from __future__ import annotations

import errno

_FIXES = {
    errno.ENOENT: "give a path that exists",
    errno.EACCES: "give one that this user may read and write",
    errno.EPERM: "give one that this user may read and write",
    errno.EROFS: "give one on a disk that can be written",
    errno.EISDIR: "it is a folder; give a file",
    errno.ENOTDIR: "a part of it is a file; give a folder",
    errno.ENAMETOOLONG: "give a shorter one",
    errno.ELOOP: "it is a link to itself; give another path",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or give a path on another disk",
    errno.EEXIST: "it is a file; give a folder",
    errno.ENOSPC: "free some space, or give a path on another disk, and repeat the command",
    errno.EDQUOT: "free some of the quota, or give a path on another disk, and repeat the command",
}


class RetrieverError(Exception):
    """An error that a user or client can fix. The message names what is wrong and the fix; commands print it alone."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def explain(error: OSError, where: str = "") -> str:
    """Return an error of the operating system on one line: path, reason and fix.

    Args:
        where: names what was read or written, for errors that name no path, such as that of a full disk.
    """
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    path = error.filename if error.filename is not None else where
    if error.filename2 is not None:  # of a copy or a new name
        path = f"{path} to {error.filename2}"
    fix = _FIXES.get(error.errno or 0)
    return f"{path}: {reason}".removeprefix(": ") + (f". Fix: {fix}" if fix else "")
