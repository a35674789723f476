"""The recipe with a real language model: one small step, and the whole of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "cpu_smollm2.sh"
# Two groups of two rollouts.
SMALL = [
    "data.train_batch_size=2",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.rollout.n=2",
    "search.max_turns=1",
    "sd_search.grad_share_every=null",
    "trainer.save_freq=-1",
]


def run_recipe(
    data: Path, model: Path, run: Path, *arguments: str, **environment: str
) -> list[dict[str, Any]]:
    """Run the recipe and return the lines of its metrics."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [RECIPE, data / "wiki18-mini", run, *arguments],
        env={**os.environ, "MODEL": str(model), "PATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    (run / "output.log").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_step_with_the_real_model(real_data: Path, smollm2: Path, tmp_path: Path) -> None:
    options = ["--questions", "0", "--steps", "1", *SMALL]
    (step,) = run_recipe(real_data, smollm2, tmp_path / "run", *options, WARM_START="--steps 1 --batch 2")
    assert step["step"] == 1
    assert math.isfinite(step["actor/grad_norm"])
    assert step["training/rollout_actor_probs_pearson_corr"] > 0.99
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)
def test_the_whole_recipe(real_data: Path, smollm2: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    run = tmp_path / "run"
    steps = run_recipe(real_data, smollm2, run)
    print(f"{time.monotonic() - begun:.0f} s")
    assert [step["step"] for step in steps] == list(range(1, 11))
    # Every step has query tokens, on which teacher and student differ.
    assert all(step["sd_search/query_tokens"] > 0 and step["sd_search/jsd"] > 0 for step in steps)
    assert all(step["training/rollout_actor_probs_pearson_corr"] > 0.99 for step in steps)
    before, after = (json.loads((run / name / "results.json").read_text()) for name in ("before", "after"))
    assert score(before) >= 0.08  # 0 without the warm start
    assert score(after) >= 0.08
    assert '"credit"' in (run / "traces.jsonl").read_text()


def score(results: dict[str, Any]) -> float:
    return float(results["sets"]["nq"]["em"]["mean"])
