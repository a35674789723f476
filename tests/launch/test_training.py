"""The training process is started again where Ray was too slow, and only there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.own_mounts import skip_without_own_mounts, with_small_disk
from support.processes import first_on_path

from sd_search_verl.launch import training
from sd_search_verl.launch.training import RAY_STARTS, TrainingFailedError, _GrowingLog, train

TOO_SLOW = "Exception: The current node timed out during startup. This could happen because some of the raylet failed"
WAITING = (
    "(TaskRunnerV1 pid=18100) INFO:2026-11-28 16:04:17,054:pending: 1, running: 7, finished: 0, failure: 0\n",
    "(TransferQueueController pid=18283) Per-operation statistics: KV_RETRIEVE_META: req_count=215\n",
)
# In place of verl: notes its start, and fails so many times.
MAIN_PPO = """
import sys
from pathlib import Path
run, failures, message = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
starts = run / "starts"
starts.write_text((starts.read_text() if starts.exists() else "") + "x")
if len(starts.read_text()) <= failures:
    sys.exit("Traceback" + chr(10) + message)
(run / "metrics.jsonl").write_text('{"step": 1}' + chr(10))
"""


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    folder = tmp_path / "verl" / "trainer"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "main_ppo.py").write_text(MAIN_PPO)
    return {"PYTHONPATH": first_on_path(tmp_path)}


def starts(run: Path) -> int:
    return len((run / "starts").read_text())


def test_a_slow_ray_is_started_again(
    environment: Mapping[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train([str(tmp_path), "1", TOO_SLOW], tmp_path, 1, environment)
    assert starts(tmp_path) == 2
    assert "once more" in capfd.readouterr().out


def test_one_that_never_starts_is_an_error(environment: Mapping[str, str], tmp_path: Path) -> None:
    with pytest.raises(TrainingFailedError, match=r"Ray did not start within its 30 s\. Fix: "):
        train([str(tmp_path), "9", TOO_SLOW], tmp_path, 1, environment)
    assert starts(tmp_path) == RAY_STARTS


def test_other_failures_end_at_once(environment: Mapping[str, str], tmp_path: Path) -> None:
    with pytest.raises(TrainingFailedError, match=r"(?s)status 1.*KeyError: 'x'"):
        train([str(tmp_path), "1", "KeyError: 'x'"], tmp_path, 1, environment)
    assert starts(tmp_path) == 1


def test_a_silent_training_is_ended_after_the_given_time(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "verl" / "trainer" / "main_ppo.py").write_text("import time; time.sleep(600)")
    with pytest.raises(TrainingFailedError, match="nothing happened for 1 s, see --silence"):
        train([], tmp_path, 1, environment, silence_s=1.0)


def test_each_line_of_the_log_is_read_once_and_whole(tmp_path: Path) -> None:
    log = _GrowingLog(tmp_path / "train.log")
    log.read_on()
    assert (log.told, log.stage, log.is_deadly) == (0, "importing", False)
    with log.path.open("w") as file:
        for text, stage, is_deadly in (
            ("Started a local Ray instance\nAfter", "Ray is up", False),
            (" FSDP", "Ray is up", False),
            (", memory\n", "starting vLLM", False),
            ("other\nEngineDead", "starting vLLM", False),
            ("Error\n", "starting vLLM", True),
            ("more\n", "starting vLLM", True),
        ):
            file.write(text)
            file.flush()
            log.read_on()
            assert (log.stage, log.is_deadly) == (stage, is_deadly), text


def test_lines_that_are_written_while_nothing_happens_tell_nothing(tmp_path: Path) -> None:
    log = _GrowingLog(tmp_path / "train.log")
    told = []
    with log.path.open("w") as file:
        for text in (
            *("step 1\n", WAITING[0], WAITING[1], "Training Progress: 3%\r", "5%\r"),
            "\n",
            WAITING[0],
        ):
            file.write(text)
            file.flush()
            log.read_on()
            told.append(log.told)
    assert told[0] == told[1] == told[2] < told[3] < told[4]
    assert told[-1] == told[-2]


def test_a_training_that_only_waits_is_ended(environment: Mapping[str, str], tmp_path: Path) -> None:
    """As verl does when a process that makes rollouts has died: it writes a line a minute, for ever."""
    program = (
        f"import time\nwhile True:\n    print({WAITING[0]!r}, end='', flush=True)\n    time.sleep(0.2)\n"
    )
    (tmp_path / "verl" / "trainer" / "main_ppo.py").write_text(program)
    with pytest.raises(TrainingFailedError, match="nothing happened for 2 s"):
        train([], tmp_path, 1, environment, silence_s=2.0)


def test_a_full_disk_is_named_where_the_log_could_not_say_so(
    environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_FULL", 2**62)
    with pytest.raises(TrainingFailedError, match=rf"the disk of {tmp_path} .*is full\. Fix: "):
        train([str(tmp_path), "1", "half a l"], tmp_path, 1, environment)


def test_a_full_disk_under_rays_files_is_named(environment: Mapping[str, str], tmp_path: Path) -> None:
    """A real one, a file system in memory that only this training sees."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    skip_without_own_mounts(temporary)
    waited = f"Timed out waiting for file {temporary}/ray/session/gcs_server_port_ab"
    program = (
        "import sys; from pathlib import Path; from sd_search_verl.launch.training import train\n"
        f"train([sys.argv[1], '9', {waited!r}], Path(sys.argv[1]), 1, {dict(environment)!r})"
    )
    done = subprocess.run(
        with_small_disk(temporary, "64k", [sys.executable, "-c", program, str(tmp_path)]),
        capture_output=True, text=True, env=os.environ | {"RAY_TMPDIR": str(temporary)}, timeout=60,
    )  # fmt: skip
    assert f"\nthe disk of {temporary} is full. Fix: " in done.stderr


def test_an_engine_that_dies_after_the_last_step_is_rays_clearing_up(
    environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "GRACE_S", 0.5)
    program = (
        "import sys, time; from pathlib import Path\n"
        "Path(sys.argv[1], 'metrics.jsonl').write_text('{\"step\": 1}\\n')\n"
        "print('vllm.v1.engine.exceptions.EngineDeadError: EngineCore', flush=True); time.sleep(3)\n"
    )
    (tmp_path / "verl" / "trainer" / "main_ppo.py").write_text(program)
    train([str(tmp_path)], tmp_path, 1, environment)
    with pytest.raises(TrainingFailedError, match="engine died"):
        train([str(tmp_path)], tmp_path, 2, environment)


@pytest.mark.parametrize("line", ["EngineDeadError", "A worker died or was killed while executing a task by"])
def test_a_training_whose_worker_died_is_ended(
    environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(training, "GRACE_S", 1.0)
    died = f"import time; print({line!r}, flush=True); time.sleep(600)"
    (tmp_path / "verl" / "trainer" / "main_ppo.py").write_text(died)
    with pytest.raises(TrainingFailedError, match="died"):
        train([], tmp_path, 1, environment)
