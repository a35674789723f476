"""The retrieval server beside a local run: index built if need be, server on loopback and a free port."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from sd_search_verl.errors import UserError
from sd_search_verl.launch.processes import start, tail

STARTUP_S = 120.0


class RetrieverFailedError(UserError):
    """The index could not be built, or the server did not start."""


def build_index(corpus: Path, index: Path) -> None:
    """Build the BM25 index of a corpus; progress goes to the terminal.

    Raises:
        RetrieverFailedError: the builder's exit status was not 0; it has said why.
    """
    command = [sys.executable, "-m", "retriever_server.build_index", "--backend", "bm25"]
    status = subprocess.call([*command, "--corpus", str(corpus), "--index", str(index), "--overwrite"])
    if status != 0:
        raise RetrieverFailedError(f"building the index of {corpus} failed with status {status}")


def start_retriever(corpus: Path, index: Path, folder: Path, host: str = "127.0.0.1") -> str:
    """Start the server and wait until it answers; returns its /retrieve address.

    Raises:
        RetrieverFailedError: it ended or was not ready in time; the message holds the end of its log.
    """
    port_file, log = folder / "retriever.url", folder / "retriever.log"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "retriever_server", "--backend", "bm25", "--host", host, "--port", "0"]
    files = ["--corpus", str(corpus), "--index", str(index), "--port-file", str(port_file)]
    server = start([*command, *files], log)
    deadline = time.monotonic() + STARTUP_S
    while not port_file.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RetrieverFailedError(f"the retrieval server did not start; {log} ends:\n{tail(log)}")
        time.sleep(0.1)
    return f"{port_file.read_text().strip().rstrip('/')}/retrieve"
