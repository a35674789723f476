"""The training process is started again where Ray was too slow, and only there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sd_search_verl.launch.training import RAY_STARTS, TrainingFailedError, _GrowingLog, train

TOO_SLOW = "Exception: The current node timed out during startup. This could happen because some of the raylet failed"
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
    return {"PYTHONPATH": str(tmp_path)}


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
    assert (log.size, log.stage, log.is_deadly) == (0, "importing", False)
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
            assert log.size == log.path.stat().st_size


def test_a_training_whose_worker_died_is_ended(environment: Mapping[str, str], tmp_path: Path) -> None:
    died = "import time; print('EngineDeadError', flush=True); time.sleep(600)"
    (tmp_path / "verl" / "trainer" / "main_ppo.py").write_text(died)
    with pytest.raises(TrainingFailedError, match="a worker died"):
        train([], tmp_path, 1, environment)
