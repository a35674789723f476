"""Why a whole run failed, on one page: what verl, Ray and vLLM wrote, where they waited, and what held the machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

MARKS = (
    "Started a local Ray instance",
    "create worker group",
    "Before FSDP",
    "After FSDP",
    "enable_sleep_mode",
    "V1 LLM engine",
    "all initialize finished",
    "Training Progress",
)
"""What verl, Ray and vLLM write on the way to the first step, in this order."""
RAY_LOGS = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "session_latest" / "logs"
COMMANDS = (
    ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv"),
    ("free", "-g"),
    ("df", "-h", "/dev/shm", "/tmp"),
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# verl prints its whole config, a thousand lines, and names the engines that are not installed.
_NOISE = re.compile(r"\(TaskRunnerV1 pid=\d+\)\s+['{\[\"\d]|engine is not available|warnings\.warn\(")
_CAUSE = re.compile(r"Traceback|\bERROR\b|Error:")


class Watch(threading.Thread):
    """Copies a growing log and notes after how many seconds each of :data:`MARKS` stood in it."""

    def __init__(self, log: Path, copy: Path, every_s: float = 5.0) -> None:
        super().__init__(daemon=True)
        self.seconds: dict[str, float] = {}
        self._log, self._copy, self._every_s = log, copy, every_s
        self._began, self._ended = time.monotonic(), threading.Event()

    def run(self) -> None:
        """Look again and again, and once more at the end."""
        while not self._ended.wait(self._every_s):
            self._look()
        self._look()

    def end(self) -> None:
        """Look for the last time."""
        self._ended.set()
        self.join()

    def _look(self) -> None:
        if not self._log.exists():
            return
        text = self._log.read_text(errors="replace")
        for mark in MARKS:
            if mark in text:
                self.seconds.setdefault(mark, round(time.monotonic() - self._began, 1))
        shutil.copy(self._log, self._copy)


def page(log: Path, seconds: dict[str, float], waiting: str = "") -> str:
    """Return the page about a run that failed; ``seconds`` of :class:`Watch`, ``waiting`` of :func:`stacks`."""
    text = readable(log.read_text(errors="replace")) if log.exists() else f"no {log}"
    parts = {
        "seconds to": ", ".join(f"{mark} {at:.0f}" for mark, at in seconds.items()) or "none of the marks",
        "first error": first_error(text),
        "end of the log": text[-5000:],
        **{f"end of {path.name}": _end_of(path) for path in _ray_logs()},
        **{" ".join(command): _output(command) for command in COMMANDS},
        "stacks": waiting,
    }
    return "\n".join(f"=== {name}\n{text}" for name, text in parts.items() if text)


def readable(log: str) -> str:
    """Return a log without colours, verl's print of its config, and engines that are not installed."""
    return "\n".join(line for line in _COLOUR.sub("", log).splitlines() if not _NOISE.search(line))


def first_error(log: str, lines: int = 60) -> str:
    """Return the lines from the first error on."""
    found = log.splitlines()
    first = next((number for number, line in enumerate(found) if _CAUSE.search(line)), len(found))
    return "\n".join(found[first : first + lines])


def prepare_stacks(folder: Path) -> str:
    """Write a start-up module of Python's into ``folder``: on SIGUSR1 a process writes its stacks into a file there.

    Returns the folder to search for modules first, for the environment of the processes.
    """
    site = folder / "site"
    site.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(
        "import faulthandler, os, signal\n"
        f"file = open(os.path.join({str(folder)!r}, f'{{os.getpid()}}.txt'), 'w')\n"
        "faulthandler.register(signal.SIGUSR1, file, all_threads=True)\n"
    )
    return str(site)


def stacks(folder: Path) -> str:
    """Return the stacks of all processes below this one that look into the folder of :func:`prepare_stacks`."""
    for child in psutil.Process().children(recursive=True):
        if (folder / f"{child.pid}.txt").exists():
            child.send_signal(signal.SIGUSR1)
    time.sleep(2)
    written = [file for file in sorted(folder.glob("*.txt")) if file.stat().st_size]
    return "\n".join(f"--- {file.stem}\n{file.read_text(errors='replace')}" for file in written)


def _ray_logs() -> Sequence[Path]:
    """Return the five newest logs of workers and the daemons' that are not empty."""
    names = ("worker-*.err", "worker-*.out", "raylet.err", "gcs_server.err")
    found = [path for name in names for path in RAY_LOGS.glob(name) if path.stat().st_size]
    return sorted(found, key=lambda path: path.stat().st_mtime)[-5:]


def _end_of(path: Path) -> str:
    return "\n".join(readable(path.read_text(errors="replace")).splitlines()[-40:])


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout + done.stderr).strip()
