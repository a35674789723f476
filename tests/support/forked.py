"""``python -c CODE`` with verl imported already: processes of multiprocessing's fork server, which imports it once.

The import takes seconds of every process that does it itself.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["sd_search_verl.verl_adapter.actor.worker"])


def start(code: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> BaseProcess:
    """Start the process with these variables beside the server's own; what it prints goes to ``log``.

    It ends with this process at the latest.
    """
    process = _FORKS.Process(target=_run, args=(code, arguments, dict(environment), str(log)), daemon=True)
    process.start()
    return process


def _run(code: str, arguments: list[str], environment: dict[str, str], log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(file, standard)
    os.environ.update(environment)  # beside what the plugin set when it was imported
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})
