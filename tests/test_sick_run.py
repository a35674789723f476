"""A whole run with a broken reward function: rollouts are lost, which is said, and then NaN stops it."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.cli import build_world, local

REPO = Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that failed; its log is ``train.log``."""
    folder = tmp_path_factory.mktemp("sick")
    world = build_world(folder / "world")
    overrides = [
        f"reward.custom_reward_function.path={REPO / 'tests' / 'support' / 'sick_reward.py'}",
        "sd_search.warmup_steps=1",
        "trainer.save_freq=1",
    ]
    done = subprocess.run(
        local(folder, world, "--steps", "50", *overrides),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.timeout(500)
def test_partial_groups_are_counted_and_warned_of(run: Path) -> None:
    first, second = lines(run / "metrics.jsonl")
    assert 0 < first["health/partial_groups"] <= 1
    assert 0 < first["health/missing_rollouts"] < 40
    assert first["health/alarm/partial_groups"] == first["health/alarms"] == 1
    assert (
        second["health/partial_groups"] == second["health/missing_rollouts"] == second["health/alarms"] == 0
    )
    # Groups that were there are groups of one question each, and all that was made is in the traces.
    made = [trace for trace in lines(run / "traces.jsonl") if trace["step"] == 1]
    assert 40 - len(made) <= first["health/missing_rollouts"]
    log = (run / "train.log").read_text(errors="replace")
    assert "health alarm partial_groups" in log
    assert "! partial_groups" in log


def test_nan_stops_the_run_and_names_the_rollouts(run: Path) -> None:
    log = (run / "train.log").read_text(errors="replace")
    assert "NonFiniteError: step 3: " in log
    assert "before the update, in rm_scores, advantages (the reward function)" in log
    saved = lines(run / "non_finite_step_3.jsonl")
    assert 0 < len(saved) <= 40
    poisoned = [line for line in saved if "rm_scores" in line["non_finite"]]
    assert poisoned
    for line in poisoned:
        assert not all(math.isfinite(score) for score in line["rm_scores"])
        assert len(line["response_ids"]) == len(line["response_mask"]) == len(line["old_log_probs"])
        assert len(line["response"]) % 2 or "<|" in line["response"]
        assert line["messages"][-1]["role"] == "user"
    assert (run / "latest_checkpointed_iteration.txt").read_text() == "2"
    assert [row["step"] for row in lines(run / "metrics.jsonl")] == [1, 2]
