"""Waiting for what other processes do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def wait_until(reached: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait until the condition holds; fail where it does not within ``within_s`` seconds."""
    end = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < end, f"not reached within {within_s} s"
        time.sleep(0.02)


def has_ended(pid: int, within_s: float = 10.0) -> bool:
    """Return whether the process is gone or a zombie (nobody reaped it), now or within ``within_s`` seconds."""
    end = time.monotonic() + within_s
    while _runs(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def first_on_path(folder: Path) -> str:
    """Return a ``PYTHONPATH`` that begins with ``folder``; what stands there, such as another verl, goes behind it."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
