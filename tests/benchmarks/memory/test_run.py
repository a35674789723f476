"""Memory of a command: its children count, those too that left its process group; other processes do not."""

from __future__ import annotations

import sys

from benchmarks.memory.run import peak

HOLD = "import time; held = bytearray(300_000_000); time.sleep(3)"


def test_a_detached_child_counts_and_the_caller_does_not() -> None:
    child = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}], start_new_session=True)"
    )
    status, proportional, resident = peak([sys.executable, "-c", child], every_s=0.2)
    assert status == 0
    assert 0.3 < proportional < 0.4
    assert proportional <= resident < 0.45


def test_the_status_is_the_commands() -> None:
    assert peak([sys.executable, "-c", "raise SystemExit(3)"], every_s=0.1)[0] == 3
