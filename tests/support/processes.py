"""Whether processes of others have ended: a machine whose first process reaps nothing shows them as zombies."""

from __future__ import annotations

import time

import psutil


def has_ended(pid: int, within_s: float = 10.0) -> bool:
    """Return whether the process is gone or a zombie, now or within ``within_s`` seconds."""
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
