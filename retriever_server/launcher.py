"""A server as a child process, for tests, benchmarks and launchers."""

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

from .errors import RetrieverError


class StartError(RetrieverError):
    """The server ended or was not ready in time. The message holds the end of its log."""


@dataclass
class ServerProcess:
    """A running server."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""
    """``http://host:port``"""

    def stop(self, timeout_s: float = 15.0) -> int:
        """Send SIGTERM, after ``timeout_s`` SIGKILL, and return the exit status."""
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
    """Run ``python -m retriever_server`` with ``arguments`` until the block ends; without ``--port`` on a free port.

    Args:
        folder: gets the address in ``retriever.url`` and the log in ``retriever.log``; by default a temporary folder.

    Raises:
        StartError: it ended by itself, or was not ready after ``timeout_s``.
    """
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory(prefix="retriever-") as place:
        port_file, log = Path(place) / "retriever.url", Path(place) / "retriever.log"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "retriever_server", *map(str, arguments)]
        command += [*([] if "--port" in arguments else ["--port", "0"]), "--port-file", str(port_file)]
        # The child finds the package next to this file, wherever the caller runs and whether or not it is installed.
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        with log.open("wb") as out:
            environment = os.environ | {"PYTHONPATH": path}
            server = ServerProcess(subprocess.Popen(command, stdout=out, stderr=out, env=environment), log)
        try:
            end = time.monotonic() + timeout_s
            while not port_file.exists():
                code = server.process.poll()
                if code is not None or time.monotonic() > end:
                    state = "is late" if code is None else f"ended with code {code}"
                    text = log.read_text(encoding="utf-8", errors="replace")[-3000:]
                    raise StartError(f"the retrieval server {state}:\n{text}")
                time.sleep(0.02)
            server.url = port_file.read_text(encoding="utf-8").strip()
            yield server
        finally:
            server.stop()
