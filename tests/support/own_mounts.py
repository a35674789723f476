"""File systems in memory that only one command of a test sees."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

# A user and mount namespace of its own: needs no rights, and nothing stays mounted afterwards.
OWN_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def skip_without_own_mounts(folder: Path) -> None:
    """Skip the test where the system grants no namespaces or no mounts in them; ``folder`` is for the trial."""
    command = [*OWN_MOUNTS, 'mount -t tmpfs none "$0"', str(folder)]
    if not shutil.which("unshare") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the system lets no test mount a file system of its own")


def with_small_disk(folder: Path, size: str, command: list[str]) -> list[str]:
    """Return the command that runs ``command`` with a disk of so many bytes, such as ``64k``, at ``folder``."""
    mount = 'mount -t tmpfs -o "size=$1" none "$2" && shift 2 && exec "$@"'
    return [*OWN_MOUNTS, mount, "sh", size, str(folder), *command]
