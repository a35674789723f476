"""The page about a whole run that failed names the cause, and its stacks say where processes waited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import diagnosis
from benchmarks.gpu.parts.stack import _deadline
from sd_search_verl.launch.training import TrainingFailedError

LOG = """\
2026-11-27 20:59:40,796\tINFO worker.py:2038 -- Started a local Ray instance.
\x1b[36m(TaskRunnerV1 pid=2662)\x1b[0m {'actor_rollout_ref': {'actor': {'_target_': 'verl.workers.config.Error:'}}}
\x1b[36m(TaskRunnerV1 pid=2662)\x1b[0m       'ref': {'_target_': 'verl.workers.config.FSDPActorConfig',
\x1b[36m(TaskRunnerV1 pid=2662)\x1b[0m UserWarning: torchtitan engine is not available: ModuleNotFoundError("No module")
\x1b[36m(TaskRunnerV1 pid=2662)\x1b[0m INFO: create worker group dict_keys(['actor_rollout'])
\x1b[36m(WorkerDict pid=3507)\x1b[0m Traceback (most recent call last):
\x1b[36m(WorkerDict pid=3507)\x1b[0m ModuleNotFoundError: No module named 'vllm.lora.models'
"""
WAITING = (
    "import time\ndef waits_for_weights():\n    print(flush=True)\n    time.sleep(60)\nwaits_for_weights()\n"
)


def waiting_process(folder: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": diagnosis.prepare_stacks(folder)}
    process = subprocess.Popen([sys.executable, "-c", WAITING], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_the_page_begins_with_the_first_error_and_leaves_the_config_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "RAY_LOGS", tmp_path)
    (tmp_path / "worker-1.err").write_text("EngineCore: no kernel image\n")
    (tmp_path / "worker-2.err").touch()
    (tmp_path / "train.log").write_text(LOG)
    page = diagnosis.page(tmp_path / "train.log", {"create worker group": 72.0}, "--- 7\nwaits")
    start = page.splitlines()
    assert start[:3] == ["=== seconds to", "create worker group 72", "=== first error"]
    assert start[3].endswith("Traceback (most recent call last):")
    assert "FSDPActorConfig" not in page
    assert "torchtitan" not in page
    assert "\x1b" not in page
    assert "=== end of worker-1.err\nEngineCore: no kernel image" in page
    assert "worker-2.err" not in page
    assert "=== free -g\n" in page
    assert page.endswith("=== stacks\n--- 7\nwaits")


def test_a_run_without_a_log_has_a_page(tmp_path: Path) -> None:
    page = diagnosis.page(tmp_path / "train.log", {})
    assert "none of the marks" in page
    assert f"no {tmp_path}" in page


def test_the_watch_copies_the_log_and_notes_its_marks(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    watch = diagnosis.Watch(log, tmp_path / "copy.log", every_s=0.05)
    watch.start()
    time.sleep(0.2)
    assert watch.seconds == {}
    log.write_text(LOG)
    watch.end()
    assert [*watch.seconds] == ["Started a local Ray instance", "create worker group"]
    assert all(0.2 <= seconds < 60 for seconds in watch.seconds.values())
    assert (tmp_path / "copy.log").read_text() == LOG


def test_at_the_deadline_the_stacks_say_where_processes_wait(tmp_path: Path) -> None:
    process = waiting_process(tmp_path / "stacks")
    previous = signal.getsignal(signal.SIGALRM)
    try:
        with (
            pytest.raises(TrainingFailedError, match="not at its end after 0 s"),
            _deadline(0.2, tmp_path / "stacks") as waiting,
        ):
            time.sleep(30)
        assert f"--- {process.pid}\n" in waiting[0]
        assert "in waits_for_weights" in waiting[0]
        assert process.poll() is None
    finally:
        process.kill()
    assert signal.getsignal(signal.SIGALRM) == previous


def test_within_the_deadline_nothing_happens(tmp_path: Path) -> None:
    with _deadline(0.3, tmp_path) as waiting:
        pass
    time.sleep(0.5)
    assert waiting == []
