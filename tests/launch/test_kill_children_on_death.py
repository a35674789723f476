"""A killed process leaves nothing behind of what it started under the guard, also where that has renamed itself, as the
processes of Ray and vLLM do."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PROGRAM = """
import subprocess, sys, time
from sd_search_verl.launch.process_tree import kill_children_on_death
with kill_children_on_death():
    worker = "import setproctitle; setproctitle.setproctitle('engine'); "
    worker += "import subprocess, time; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); time.sleep(1000)"
    child = [sys.executable, "-c", worker]
    engine = subprocess.Popen(child, stdout=subprocess.PIPE, text=True, start_new_session=True)
    print(engine.pid, engine.stdout.readline().strip(), flush=True)
    time.sleep(float(sys.argv[1]))
"""


def start(seconds: float) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    line = [sys.executable, "-c", PROGRAM, str(seconds)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]


def test_a_killed_process_takes_its_engine_along() -> None:
    process, engine = start(1000)
    assert len(engine) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(engine, timeout=30)[1] == []


def test_a_process_that_ends_takes_what_is_left_along_and_nothing_else() -> None:
    other, others_engine = start(1000)
    process, engine = start(0)
    assert process.wait(timeout=60) == 0
    assert psutil.wait_procs(engine, timeout=30)[1] == []
    time.sleep(0.2)
    assert all(child.is_running() for child in others_engine)
    other.kill()
    assert psutil.wait_procs(others_engine, timeout=30)[1] == []


SHARING = """
import multiprocessing, time
from multiprocessing.shared_memory import SharedMemory
from sd_search_verl.launch.process_tree import kill_children_on_death
def share(pipe):
    memory = SharedMemory(create=True, size=1000)
    pipe.send(memory.name)
    time.sleep(1000)
if __name__ == "__main__":
    with kill_children_on_death():
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        context.Process(target=share, args=(theirs,)).start()
        print(mine.recv(), flush=True)
        time.sleep(1000)
"""


def test_shared_memory_of_killed_processes_is_removed(tmp_path: Path) -> None:
    program = tmp_path / "sharing.py"
    program.write_text(SHARING)
    process = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    segment = Path("/dev/shm") / process.stdout.readline().strip()
    assert segment.exists()
    process.kill()
    deadline = time.monotonic() + 30
    while segment.exists():
        assert time.monotonic() < deadline, segment
        time.sleep(0.1)
