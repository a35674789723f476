"""Steps in which verl does not update the policy have metrics and traces like all others."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from support.cli import local

STEPS = 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_steps_of_the_critic_warm_up_are_recorded(world: Path, tmp_path: Path) -> None:
    overrides = [f"trainer.critic_warmup={STEPS}", "sd_search.warmup_steps=0", "trainer.save_freq=2"]
    command = local(tmp_path, world, "--steps", str(STEPS), *overrides)
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, env={**os.environ})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [step["sd_search/alpha"] for step in steps] == [0.0, 0.0, 0.3]
    assert [("actor/grad_norm" in step) for step in steps] == [False, False, True]
    assert all(step["search/searches_per_rollout"] > 0.5 for step in steps)
    traced = Counter(
        json.loads(line)["step"] for line in (tmp_path / "traces.jsonl").read_text().splitlines()
    )
    assert traced == {1: 40, 2: 40, 3: 40}
