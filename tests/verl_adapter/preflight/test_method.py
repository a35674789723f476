"""A config with our sections that would run something else is refused, wherever verl starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict
from support.good_run import change
from verl.trainer.ppo.v1 import PPOTrainer, get_trainer_cls

from sd_search_verl.config import ConfigError
from sd_search_verl.launch.environment import ENVIRONMENT
from sd_search_verl.verl_adapter import preflight
from sd_search_verl.verl_adapter.preflight.method import check_method, refuse_other_method
from sd_search_verl.verl_adapter.settings import SECTIONS


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_every_other_trainer_is_refused(good: DictConfig, mode: str) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.v1\.trainer_mode={mode} is verl's own trainer"):
        preflight.refuse_bad_start(change(good, trainer__v1__trainer_mode=mode))


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_verls_trainers_refuse_our_sections_without_hydra(good: DictConfig, mode: str) -> None:
    """As `TaskRunnerV1.run` makes them, where no callback of Hydra's runs."""
    trainer = get_trainer_cls(mode)
    assert issubclass(trainer, PPOTrainer)
    with pytest.raises(ConfigError, match=rf"trainer\.v1\.trainer_mode={mode} is verl's own trainer"):
        trainer(config=change(good, trainer__v1__trainer_mode=mode))


def test_verls_trainers_take_configs_without_our_sections(good: DictConfig) -> None:
    config = change(good, trainer__v1__trainer_mode="sync")
    with open_dict(config):
        for section in SECTIONS:
            config.pop(section)
    assert get_trainer_cls("sync")(config=config).config is config


RUN_PPO = """
import sys
from omegaconf import OmegaConf
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
run_ppo(OmegaConf.load(sys.argv[1]), TaskRunnerV1)
"""


@pytest.mark.slow
def test_run_ppo_refuses_another_trainer_before_a_model_is_loaded(good: DictConfig, tmp_path: Path) -> None:
    OmegaConf.save(change(good, trainer__v1__trainer_mode="sync"), tmp_path / "config.yaml")
    environment = {**os.environ, **ENVIRONMENT}
    command = [sys.executable, "-c", RUN_PPO, str(tmp_path / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment)
    assert done.returncode == 1
    assert "ConfigError: trainer.v1.trainer_mode=sync is verl's own trainer" in done.stderr
    assert "Before FSDP" not in done.stdout + done.stderr


@pytest.mark.parametrize("loop", ["single_turn_agent", "tool_agent", "mine"])
def test_every_other_agent_loop_is_refused(good: DictConfig, loop: str) -> None:
    changed = change(good, actor_rollout_ref__rollout__agent__default_agent_loop=loop)
    with pytest.raises(ConfigError, match=rf"default_agent_loop={loop} does not search.*sd_search_agent"):
        refuse_other_method(changed)


def test_another_agent_loop_under_our_name_is_refused(good: DictConfig, tmp_path: Path) -> None:
    option = "actor_rollout_ref__rollout__agent__agent_loop_config_path"
    loops = tmp_path / "loops.yaml"
    OmegaConf.save(OmegaConf.create([{"name": "other", "_target_": "mine.Loop"}]), loops)
    refuse_other_method(change(good, **{option: str(loops)}))
    OmegaConf.save(OmegaConf.create([{"name": "sd_search_agent", "_target_": "mine.Loop"}]), loops)
    with pytest.raises(ConfigError, match=r"defines another sd_search_agent: mine\.Loop"):
        refuse_other_method(change(good, **{option: str(loops)}))
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        refuse_other_method(change(good, **{option: str(tmp_path / "none.yaml")}))
    manager = {"actor_rollout_ref__rollout__agent__agent_loop_manager_class": "mine.Manager"}
    with pytest.raises(ConfigError, match=r"agent_loop_manager_class=mine\.Manager"):
        refuse_other_method(change(good, **manager))


def test_verls_own_rewards_are_refused_and_a_users_own_is_said(good: DictConfig) -> None:
    with pytest.raises(ConfigError, match=r"reward\.custom_reward_function\.path is null.*Fix: set reward"):
        refuse_other_method(change(good, reward__custom_reward_function__path=None))
    own = change(good, reward__custom_reward_function__path="mine.py")
    (finding,) = check_method(own)
    assert finding.warning
    assert (
        "mine.py is a reward of your own, while sd_search.hindsight.label=em makes CORRECT" in finding.found
    )
    for answered in ({"sd_search__hindsight__label": "reward"}, {"sd_search__alpha": 0}):
        assert [*check_method(change(own, **answered))] == []
    (finding,) = check_method(change(good, reward__reward_model__enable=True))
    assert finding.warning


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("custom_reward_function.path", "mine.py"),
        ("reward_model.enable", False),
        ("reward_model.model.path", "some/model"),
        ("sandbox_fusion.url", "http://127.0.0.1"),
    ],
)
def test_options_of_verls_earlier_trainer_are_refused(good: DictConfig, option: str, value: Any) -> None:
    (finding,) = check_method(change(good, **{option.replace(".", "__"): value}))
    assert finding.fatal
    assert f"{option}={value} is an option of verl's earlier trainer" in finding.found
    assert "give it in the section reward" in finding.fix


def test_labels_that_disagree_with_the_reward_are_a_warning(good: DictConfig) -> None:
    (finding,) = check_method(change(good, sd_search__hindsight__label="f1"))
    assert finding.warning
    assert (
        "sd_search.hindsight.label=f1 calls rollouts CORRECT that the reward (em) gives nothing"
        in finding.found
    )
    metric = {"reward__custom_reward_function__reward_kwargs__metric": "f1"}
    for changes in ({"label": "em"}, {"label": "reward"}, {"label": "f1", **metric}):
        label = {"sd_search__hindsight__label": changes.pop("label")}
        assert [*check_method(change(good, **label, **changes))] == []
    assert [*check_method(change(good, sd_search__hindsight__label="f1", sd_search__alpha=0.0))] == []


def test_a_group_of_one_is_refused(good: DictConfig) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.n=1: a group of one has no baseline"):
        preflight.refuse_bad_start(change(good, actor_rollout_ref__rollout__n=1))


def test_traces_that_hold_no_group_are_a_warning(good: DictConfig) -> None:
    (finding,) = check_method(change(good, search__traces_per_step=4))
    assert finding.warning
    assert "search.traces_per_step=4 is less than a group (actor_rollout_ref.rollout.n=5)" in finding.found
    assert [*check_method(change(good, search__traces_per_step=0))] == []
    assert [*check_method(change(good, search__traces_per_step=5))] == []


def test_another_advantage_is_a_warning(good: DictConfig) -> None:
    (finding,) = check_method(change(good, algorithm__adv_estimator="gae"))
    assert finding.warning
    assert "the loss is not L_GRPO + alpha L_SD" in finding.found


def test_older_tokens_are_weighed_by_the_ratio_itself_in_bypass_mode(good: DictConfig) -> None:
    """There old_log_probs are those of the rollouts, so verl's ratio is the importance weight."""
    late = change(good, trainer__v1__trainer_mode="sd_search_colocate_async")
    (finding,) = check_method(late)
    assert "without importance weights" in finding.found
    assert [*check_method(change(late, algorithm__rollout_correction__bypass_mode=True))] == []
    assert [*check_method(change(late, algorithm__rollout_correction__rollout_is="token"))] == []


@pytest.mark.parametrize("adapters", [{"lora__rank": 8}, {"lora_adapter_path": "/adapters"}], ids=str)
def test_adapters_that_verl_would_not_make_are_refused(good: DictConfig, adapters: dict[str, Any]) -> None:
    """verl's FSDP engine makes and loads adapters where model.lora_rank is above 0, and nowhere else."""
    model = {f"actor_rollout_ref__model__{name}": value for name, value in adapters.items()}
    (finding,) = check_method(change(good, **model))
    assert finding.fatal
    assert "whole weights would be trained" in finding.found
    assert "set actor_rollout_ref.model.lora_rank" in finding.fix
    assert [*check_method(change(good, **model, actor_rollout_ref__model__lora_rank=8))] == []


def test_adapters_that_servers_of_their_own_never_see_are_refused(good: DictConfig) -> None:
    """See test_what_verl_sends_to_servers_of_their_own_is_the_base_model of tests/verl_adapter/actor/test_lora.py."""
    mode = {"trainer__v1__trainer_mode": "sd_search_separate_async"}
    apart = change(good, actor_rollout_ref__model__lora_rank=8, **mode)
    (finding,) = [one for one in check_method(apart) if not one.warning]
    assert finding.fatal
    assert "sends the base model's weights alone" in finding.found
    assert "set actor_rollout_ref.model.lora.merge=True" in finding.fix
    merged = change(apart, actor_rollout_ref__model__lora__merge=True)
    assert all(one.warning for one in check_method(merged))
    for mode in ("sd_search", "sd_search_colocate_async"):
        assert all(one.warning for one in check_method(change(apart, trainer__v1__trainer_mode=mode)))


def test_the_trainer_and_a_check_refuse_a_key_in_an_address(good: DictConfig) -> None:
    changed = change(good, search__retriever_urls=["http://a:1", "http://:hidden@b:1/retrieve"])
    with pytest.raises(ConfigError, match=r"http://b:1/retrieve is given with a key") as error:
        preflight.refuse_bad_start(changed)
    assert "hidden" not in str(error.value)
    assert "hidden" not in "\n".join(preflight.describe_run(changed))


def test_an_option_that_verl_cannot_carry_is_refused_by_the_trainer(good: DictConfig) -> None:
    with pytest.raises(ConfigError, match=r"use_fused_kernels=True does not work with SD-Search: "):
        preflight.refuse_bad_start(change(good, actor_rollout_ref__model__use_fused_kernels=True))


@pytest.mark.parametrize(
    ("option", "value", "says", "fatal"),
    [
        ("custom_reward_function__name", "exact_match", "name=exact_match is not the reward of pkg://", True),
        ("custom_reward_function__reward_kwargs", {"metric": "EM"}, "metric=EM is none of em, f1", True),
        ("custom_reward_function__path", "pkg://sd_search_verl/scoring", "", False),
        ("reward_manager__name", "dapo", "reward.reward_manager=dapo may change what", False),
        ("reward_manager__source", "importlib", "reward.reward_manager=importlib may change", False),
    ],
)
def test_what_makes_another_reward_of_ours(
    good: DictConfig, option: str, value: object, says: str, fatal: bool
) -> None:
    findings = [*check_method(change(good, **{f"reward__{option}": value}))]
    assert [finding.fatal for finding in findings] == ([fatal] if says else [])
    assert all(says in finding.found for finding in findings)


def test_another_policy_loss_is_a_warning(good: DictConfig) -> None:
    (finding,) = check_method(change(good, actor_rollout_ref__actor__policy_loss__loss_mode="gspo"))
    assert finding.warning
    assert "loss_mode=gspo: the loss is not L_GRPO" in finding.found


@pytest.mark.parametrize("n", [0, None])
def test_no_group_at_all_is_refused(good: DictConfig, n: int | None) -> None:
    with pytest.raises(ConfigError, match=rf"rollout\.n={n}: a group of one has no baseline"):
        refuse_other_method(change(good, actor_rollout_ref__rollout__n=n))


@pytest.mark.parametrize(
    "values",
    [
        {"search__traces_per_step": "many"},
        {"sd_search__use": "advantage", "sd_search__alpha": "0.5"},
        {"sd_search__regularizer": "llds", "data__train_batch_size": "8"},
    ],
)
def test_a_word_in_place_of_a_number_hides_no_refusal(good: DictConfig, values: dict[str, str]) -> None:
    """Hydra turns what its callback raises into a warning, and verl's legacy trainer would start."""
    with pytest.raises(ConfigError, match=r"trainer\.use_v1=False"):
        refuse_other_method(change(good, trainer__use_v1=False, **values))
