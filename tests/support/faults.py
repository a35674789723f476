"""Commands that must fail, and the systems that make them: a limit on file sizes, a user without root's privileges."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

Command = Callable[[list[str]], int]


def write_lines(path: Path, rows: list[dict]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def complaint(command: Command, arguments: list[str]) -> str:
    """Run a command that must fail; return what it says. Variables that it sets end with it."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with patch.dict(os.environ), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = command(arguments)
    except SystemExit as end:  # argparse's own
        status = 2 if end.code else 0
    said = err.getvalue()
    assert status in (1, 2), (out.getvalue(), said)
    assert "Traceback" not in said
    return said


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Let every write beyond ``size`` bytes of a file fail, as on a disk that is full (error 27 in place of 28)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Take from this thread root's right to read and write every file; the bits of the files then count."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capset(2): version 3, this thread
    before = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; low words, then high words
    assert libc.capget(header, before) == 0
    fewer = (ctypes.c_uint32 * 6)(*before)
    fewer[0] &= ~0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0
