"""One whole run with adapters on the CPU: main_ppo, Ray and vLLM with LoRA on, as ``gpus=1x1`` trains on a card."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.cli import build_world, local

OVERRIDES = [
    "actor_rollout_ref.model.lora_rank=8",
    "actor_rollout_ref.rollout.load_format=safetensors",
    "actor_rollout_ref.rollout.layered_summon=True",
    "actor_rollout_ref.actor.optim.lr=1e-2",  # steps large enough to tell the adapted model from its base
    "actor_rollout_ref.actor.use_kl_loss=True",
    "sd_search.warmup_steps=1",
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_rollout_engine_samples_from_the_adapted_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = local(run, build_world(tmp_path / "world"), "--steps", "4", *OVERRIDES)
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 4
    assert all(step["sd_search/jsd"] > 0 for step in steps[1:])
    # The reference is the model without adapters, and after three updates the policy is another one:
    assert steps[0]["actor/kl_loss"] == pytest.approx(0, abs=1e-6)
    assert steps[-1]["actor/kl_loss"] > 1e-3
    # vLLM's log-probs are those of that policy, so the adapters arrived.
    assert all(step["training/rollout_probs_diff_max"] < 1e-4 for step in steps)
