"""Processes that end with the one that started them, also when it is killed: else they keep GPU, port and run folder,
and no second start fits.

A SIGKILL of a parent does not reach its children. A small process therefore waits for the end of a pipe that only the
parent holds, and then ends all that carry the parent's mark in their environment.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import psutil

_MARK = "SD_SEARCH_CHILD_OF"
# Ray and vLLM rename their processes, and setproctitle writes the name over the environment unless told not to.
_KEEP_ENVIRONMENT = "SPT_NOENV"


@contextlib.contextmanager
def children_end_with_us() -> Iterator[None]:
    """Whatever process is started inside and still runs when this one is gone is killed."""
    mark = uuid4().hex
    os.environ |= {_MARK: mark, _KEEP_ENVIRONMENT: "1"}
    # A session of its own: Ctrl-C in the terminal is not for it.
    watcher = subprocess.Popen(
        [sys.executable, "-m", __name__, mark],
        stdin=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != _MARK},
        start_new_session=True,
    )
    try:
        yield
    finally:
        del os.environ[_MARK], os.environ[_KEEP_ENVIRONMENT]
        if watcher.stdin is not None:
            watcher.stdin.close()
        watcher.wait()


def main(mark: str) -> None:
    """Wait for the end of standard input, then kill every process with ``mark`` in its environment.

    Looks again until there is none: those that are found first may have been starting others.
    """
    sys.stdin.buffer.read()
    for _ in range(5):
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == mark:
                    process.kill()
                    found.append(process)
        if not found:
            return
        psutil.wait_procs(found, timeout=5)


if __name__ == "__main__":
    main(sys.argv[1])
