"""Run several serving processes on one listening socket; the kernel spreads the connections.

Uvicorn's own supervisor counts a worker as ready before its index is open.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .settings import Settings

log = logging.getLogger("retriever_server")

SOCKET_VARIABLE = "RETRIEVER_SOCKET"  # file descriptor that a worker inherits
# In a row, of one worker; before all have been ready once, the first failure ends the server.
MAX_FAILED_STARTS = 3


def write_port_file(path: Path, url: str) -> None:
    """Write the URL in one step, so that a waiting reader never sees a part of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(url + "\n", encoding="utf-8")
    temporary.replace(path)


def supervise(settings: Settings, sock: socket.socket, arguments: Sequence[str], url: str) -> int:
    """Run ``settings.workers`` workers on ``sock`` and restart those that die; return the exit status.

    Args:
        arguments: command line of the workers, which ``--workers 1`` and the socket's descriptor are added to.
    """
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: stopping.append(received))
    with tempfile.TemporaryDirectory(prefix="retriever-") as folder:
        workers = [_Worker(sock, arguments, Path(folder) / str(n)) for n in range(settings.workers)]
        announced = False
        code = 0
        while not stopping:
            if not announced and all(worker.ready.exists() for worker in workers):
                announced = True
                log.info("ready: %s/retrieve (%d workers)", url, settings.workers)
                if settings.port_file:
                    write_port_file(settings.port_file, url)
            for worker in workers:
                if worker.ready.exists():
                    worker.failed_starts = 0
                if worker.process.poll() is None:
                    continue
                worker.failed_starts += not worker.ready.exists()
                if worker.failed_starts >= (MAX_FAILED_STARTS if announced else 1):
                    log.error("a worker ended with code %d while starting", worker.process.returncode)
                    code = 1
                    stopping.append(0)
                    break
                log.warning("a worker ended with code %d; starting another", worker.process.returncode)
                worker.start()
            time.sleep(0.05)
        for worker in workers:
            worker.process.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.process.wait()
        if settings.port_file:
            settings.port_file.unlink(missing_ok=True)
    return code


class _Worker:
    def __init__(self, sock: socket.socket, arguments: Sequence[str], ready: Path) -> None:
        self._sock, self._arguments, self.ready = sock, arguments, ready
        self.failed_starts = 0
        self.start()

    def start(self) -> None:
        self.ready.unlink(missing_ok=True)
        number = self._sock.fileno()
        command = [sys.executable, "-m", "retriever_server", *self._arguments]
        command += ["--workers", "1", "--port-file", str(self.ready)]
        environment = os.environ | {SOCKET_VARIABLE: str(number)}
        # A session of its own: Ctrl-C reaches the supervisor alone, which then ends the workers in order.
        # The pipe closes when the supervisor dies, also by SIGKILL.
        self.process = subprocess.Popen(
            command, pass_fds=[number], env=environment, start_new_session=True, stdin=subprocess.PIPE
        )
