"""A server as a child process: for demos, benchmarks and tests that need one and want it gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path


class StartError(RuntimeError):
    """The server ended or was not ready in time. The message holds the end of its log."""


@dataclass
class ServerProcess:
    """A running server."""

    url: str
    """``http://host:port``"""
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, timeout_s: float = 15.0) -> int:
        """Ask it to end (SIGTERM), insist after ``timeout_s``; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                return self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


@contextmanager
def serving(
    *arguments: str | Path, folder: Path | None = None, timeout_s: float = 120.0
) -> Iterator[ServerProcess]:
    """Run ``python -m retriever_server`` with ``arguments`` until the block ends.

    Without a ``--port`` among the arguments a free one is picked. ``folder`` receives the server's address in
    ``retriever.url`` and its log in ``retriever.log``; default: a temporary folder.

    Raises:
        StartError: it ended by itself, or was not ready after ``timeout_s``.
    """
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory(prefix="retriever-") as place:
        port_file, log = Path(place) / "retriever.url", Path(place) / "retriever.log"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "retriever_server", *map(str, arguments)]
        if "--port" not in arguments:
            command += ["--port", "0"]
        # The package is found next to this file, wherever the caller runs and whether or not it is installed.
        root = str(Path(__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--port-file", str(port_file)], stdout=output, stderr=output, env=environment
            )
        server = ServerProcess("", process, log)
        try:
            end = time.monotonic() + timeout_s
            while not port_file.exists():
                if process.poll() is not None or time.monotonic() > end:
                    state = (
                        f"ended with code {process.returncode}"
                        if process.returncode is not None
                        else "is late"
                    )
                    text = log.read_text(encoding="utf-8", errors="replace")[-3000:]
                    raise StartError(f"the retrieval server {state}:\n{text}")
                time.sleep(0.02)
            server.url = port_file.read_text(encoding="utf-8").strip()
            yield server
        finally:
            server.stop()
