"""Child processes that are gone when the command is, whatever ends it.

Ray starts daemons in sessions of their own, and a killed driver leaves them behind. On Linux this process therefore
adopts every orphan below it (``PR_SET_CHILD_SUBREAPER``), so that at the end all of them can be found and ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36


@contextlib.contextmanager
def no_process_left() -> Iterator[None]:
    """End every process started inside, directly or not, when the context is left; SIGTERM leaves it like Ctrl-C."""
    _adopt_orphans(True)
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        # A second Ctrl-C must not stop the cleaning up.
        ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_children()
        _adopt_orphans(False)
        signal.signal(signal.SIGINT, ignored)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _adopt_orphans(yes: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def end_children(grace_s: float = 10.0) -> None:
    """Ask all descendants to end, then kill what is left. Repeats for those that appear meanwhile."""
    for attempt in range(5):
        children = psutil.Process().children(recursive=True)
        if not children:
            return
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate() if attempt == 0 else child.kill()
        psutil.wait_procs(children, timeout=grace_s if attempt == 0 else 2.0)
        _reap()


def _reap() -> None:
    """Collect adopted orphans, which nobody else waits for."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def start(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a child whose output goes to ``log`` and that a Ctrl-C in the terminal does not reach before us."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )


def tail(log: Path, lines: int = 25) -> str:
    """The last lines of a log, for error messages."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
