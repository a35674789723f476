"""The retrieval server of a local run: the index is built, the server listens on loopback and a free port."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retriever_server.launcher import StartError, serving
from sd_search_verl.errors import UserError


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


@contextmanager
def serving_index(corpus: Path, index: Path, folder: Path) -> Iterator[str]:
    """Serve an index until the block ends, with its log in ``folder``; yields the /retrieve address.

    Raises:
        RetrieverFailedError: the server ended or was not ready in time; the message holds the end of its log.
    """
    try:
        with serving("--backend", "bm25", "--corpus", corpus, "--index", index, folder=folder) as server:
            yield f"{server.url}/retrieve"
    except StartError as error:
        raise RetrieverFailedError(f"{error}\nits whole log is {folder / 'retriever.log'}") from error
