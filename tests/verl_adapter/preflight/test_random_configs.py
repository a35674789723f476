"""Random configs of verl's and our options: each is refused, or runs the method that `sd-search check` names."""

from __future__ import annotations

import re
from random import Random

import pytest
from omegaconf import DictConfig, OmegaConf
from support.good_run import change, good_config

from sd_search_verl.verl_adapter import preflight

OPTIONS: dict[str, list[object]] = {
    "trainer__v1__trainer_mode": ["sd_search", "sd_search", "sd_search", "sync", "separate_async"],
    "trainer__use_v1": [True, True, True, False],
    "actor_rollout_ref__rollout__agent__default_agent_loop": ["sd_search_agent"] * 3 + ["single_turn_agent"],
    "reward__custom_reward_function__path": ["pkg://sd_search_verl.scoring"] * 3 + [None, "mine.py"],
    "actor_rollout_ref__rollout__n": [5, 5, 2, 1],
    "actor_rollout_ref__rollout__max_model_len": [2048, 2048, None, 64, 1030],
    "algorithm__adv_estimator": ["grpo", "grpo", "rloo", "reinforce_plus_plus"],
    "sd_search__alpha": [0, 0.3, 0.001, -1],
    "sd_search__warmup_steps": [0, 3, 14, 50],
    "sd_search__hindsight__content": ["queries", "full", "nothing"],
    "trainer__total_training_steps": [14, 4, None, 5000],
    "trainer__total_epochs": [1000, 1, 4],
    "data__train_batch_size": [8, 4, 16],
    "data__truncation": ["left", "error", "right"],
    "data__max_prompt_length": [1024, 64],
    "search__traces_per_step": [40, 2, 0],
    "actor_rollout_ref__actor__strategy": ["fsdp2", "fsdp2", "megatron"],
}
OURS = {
    "trainer.v1.trainer_mode": "sd_search",
    "trainer.use_v1": True,
    "actor_rollout_ref.rollout.agent.default_agent_loop": "sd_search_agent",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    return good_config(tmp_path_factory.mktemp("random"))


def findings(config: DictConfig) -> list:
    checks = (
        preflight.check_method,
        preflight.check_verl,
        preflight.check_hindsight,
        preflight.check_data,
    )
    return [finding for check in checks for finding in check(config) if not finding.ok]


def check_one(base: DictConfig, seed: int) -> bool:
    """Compare what the checks let through with what verl would do; return whether it was let through."""
    draw = Random(seed)
    changed = {name: draw.choice(values) for name, values in OPTIONS.items() if draw.random() < 0.3}
    config = change(base, **changed)
    failed = findings(config)
    if any(finding.fatal for finding in failed):
        return False
    assert {name: OmegaConf.select(config, name) for name in OURS} == OURS, changed
    warned = {finding.name for finding in failed}
    if config.reward.custom_reward_function.path != "pkg://sd_search_verl.scoring":
        assert config.reward.custom_reward_function.path == "mine.py", changed
        assert "reward.custom_reward_function.path" in warned, changed
    n = config.actor_rollout_ref.rollout.n
    assert n > 1, changed
    assert config.algorithm.adv_estimator == "grpo" or "algorithm.adv_estimator" in warned, changed
    per_epoch = 8 // config.data.train_batch_size  # the good run has 8 rows
    steps = config.trainer.total_training_steps or per_epoch * config.trainer.total_epochs
    assert 0 < steps <= per_epoch * config.trainer.total_epochs, changed
    distilled = [step for step in range(1, steps + 1) if step > config.sd_search.warmup_steps]
    method = preflight.describe_run(config)[4]
    if config.sd_search.alpha and distilled:
        assert f"L_SD from step {distilled[0]} " in method, (changed, method)
    else:
        assert "no L_SD" in method, (changed, method)
        assert config.sd_search.alpha == 0 or "sd_search.warmup_steps" in warned, changed
    assert re.search(rf"groups of {n}, {steps} steps of {config.data.train_batch_size}$", method), method
    context = config.actor_rollout_ref.rollout.max_model_len
    assert context is None or context > 64, changed
    return True


def test_random_configs_are_refused_or_run_what_they_say(base: DictConfig) -> None:
    passed = [check_one(base, seed) for seed in range(40)]
    assert 2 <= sum(passed) <= 38


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_thousand_random_configs(base: DictConfig) -> None:
    passed = [check_one(base, seed) for seed in range(1000, 3000)]
    assert 100 <= sum(passed) <= 1900
