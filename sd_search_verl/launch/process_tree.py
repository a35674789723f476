"""Child processes that end with the command that started them, so that no GPU, port or run folder stays taken.

`end_children_on_exit` covers every end that Python code still sees. Ray starts daemons in sessions of their own, which
a killed driver leaves behind; on Linux this process therefore adopts every orphan below it
(``PR_SET_CHILD_SUBREAPER``) and ends all of them. `kill_children_on_death` covers SIGKILL, which does not reach
children: a small process waits for the end of a pipe that only the parent holds, then kills every process that carries
the parent's mark in its environment.
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
from typing import Any
from uuid import uuid4

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_MARK = "SD_SEARCH_CHILD_OF"
# Ray and vLLM rename their processes, and setproctitle writes the name over the environment unless told not to.
_KEEP_ENVIRONMENT = "SPT_NOENV"
_TRACKER = "multiprocessing.resource_tracker"
# What a killed process left behind is removed; the tracker's warning of it would stand behind our own last line.
_QUIET_TRACKER = "ignore:resource_tracker"
_watchers: set[int] = set()
"""Processes of :func:`kill_children_on_death`, which are needed until all other children have ended."""


@contextlib.contextmanager
def end_children_on_exit() -> Iterator[None]:
    """End every process started inside, directly or not, when the block ends; SIGTERM ends it like Ctrl-C."""
    _adopt_orphans(True)
    previous: dict[signal.Signals, Any] = {
        number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        # A second signal must not stop the cleaning up.
        previous[signal.SIGINT] = signal.getsignal(signal.SIGINT)
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        _end_children()
        _adopt_orphans(False)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _adopt_orphans(yes: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end_children() -> None:
    """Ask all descendants to end, and after 10 s kill what is left. Repeat for those that appear meanwhile."""
    for attempt in range(5):
        children = [
            child for child in psutil.Process().children(recursive=True) if child.pid not in _watchers
        ]
        if not children:
            return
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate() if attempt == 0 else child.kill()
        psutil.wait_procs(children, timeout=10.0 if attempt == 0 else 2.0)
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


@contextlib.contextmanager
def kill_children_on_death() -> Iterator[None]:
    """Kill every process started inside that still runs when this process is gone."""
    mark = uuid4().hex
    before = {name: os.environ.get(name) for name in (_MARK, _KEEP_ENVIRONMENT, "PYTHONWARNINGS")}
    quiet = ",".join(filter(None, [before["PYTHONWARNINGS"], _QUIET_TRACKER]))
    os.environ |= {_MARK: mark, _KEEP_ENVIRONMENT: "1", "PYTHONWARNINGS": quiet}
    # A session of its own: Ctrl-C in the terminal is not for it.
    watcher = subprocess.Popen(
        [sys.executable, "-m", __name__, mark],
        stdin=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != _MARK},
        start_new_session=True,
    )
    _watchers.add(watcher.pid)
    try:
        yield
    finally:
        _watchers.discard(watcher.pid)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if watcher.stdin is not None:
            watcher.stdin.close()
        watcher.wait()


def _kill_marked_at_end_of_input(mark: str) -> None:
    """Wait for the end of standard input, then kill every process with ``mark`` in its environment.

    Repeats until there is none: the first ones may have been starting others. Python's trackers of shared memory stay:
    they remove what the killed processes left in /dev/shm, and end by themselves after their owner.
    """
    sys.stdin.buffer.read()
    for _ in range(5):
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == mark and _TRACKER not in " ".join(process.cmdline()):
                    process.kill()
                    found.append(process)
        if not found:
            return
        psutil.wait_procs(found, timeout=5)


if __name__ == "__main__":
    _kill_marked_at_end_of_input(sys.argv[1])
