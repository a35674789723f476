"""Child processes are ended with everything below them, daemons included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.processes import has_ended

# A child that starts a daemon in a session of its own, as Ray does, and ends or waits.
PROGRAM = """
import subprocess, sys, time
from pathlib import Path
from sd_search_verl.launch.process_tree import end_children_on_exit, start

daemon = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], \
start_new_session=True); open(sys.argv[1], 'w').write(str(p.pid)); {last}"
with end_children_on_exit():
    start([sys.executable, "-c", daemon, sys.argv[1]], Path(sys.argv[1] + ".log"))
    print("started", flush=True)
    {wait}
"""


def program(last: str, wait: str) -> str:
    return PROGRAM.replace("{last}", last).replace("{wait}", wait)


def grandchild(path: Path) -> psutil.Process:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return psutil.Process(int(path.read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("last", ["pass", "import time; time.sleep(600)"], ids=["orphaned", "attached"])
def test_nothing_outlives_a_signal(tmp_path: Path, number: signal.Signals, last: str) -> None:
    path = tmp_path / "pid"
    code = program(last, "time.sleep(600)")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        below = grandchild(path)
        time.sleep(0.3)
        assert below.is_running()
        os.kill(process.pid, number)
        assert process.wait(timeout=30) != 0
    finally:
        process.kill()
    assert has_ended(below.pid)


def test_a_second_signal_does_not_stop_the_cleaning_up(tmp_path: Path) -> None:
    """The child does not end by itself, and the first signal leaves it some seconds to do so."""
    path, ready = tmp_path / "pid", tmp_path / "ready"
    stubborn = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    stubborn += "open(sys.argv[1], 'w').close(); time.sleep(600)"
    command = f"[sys.executable, '-c', {stubborn!r}, {str(ready)!r}]"
    started = f"child = start({command}, Path(sys.argv[1] + '.log')); print(child.pid, flush=True)"
    code = program("pass", f"{started}; time.sleep(600)").replace('print("started", flush=True)', "pass")
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline().split()[0])
    try:
        deadline = time.monotonic() + 30
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=40) != 0
        assert has_ended(child)
    finally:
        process.kill()
        if psutil.pid_exists(child):
            psutil.Process(child).kill()


def test_nothing_outlives_the_end(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    code = program(
        "pass", f"\n    while not Path({str(path)!r}).exists(): time.sleep(0.05)\n    time.sleep(0.3)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    assert process.wait(timeout=60) == 0
    assert has_ended(int(path.read_text()))
