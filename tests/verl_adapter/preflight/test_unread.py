"""Options of verl's that its V1 trainer or the FSDP engine does not read are named, with the one that is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from support.good_run import change
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

from sd_search_verl.finding import Finding
from sd_search_verl.verl_adapter.preflight.method import check_method
from sd_search_verl.verl_adapter.preflight.unread import check_unread

ACTOR, ROLLOUT = "actor_rollout_ref__actor__", "actor_rollout_ref__rollout__"
TURNS = f"{ROLLOUT}multi_turn__"


def found(config: DictConfig, **values: Any) -> list[Finding]:
    return [*check_unread(change(config, **values))]


def test_the_good_run_has_nothing_to_find(good: DictConfig) -> None:
    assert found(good) == []


def test_verl_clips_by_the_optimizers_option_alone(good: DictConfig) -> None:
    """What is said is what verl's engine does: a gradient of norm 5 and grad_clip=1, clip_grad=2."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    engine: Any = FSDPEngine.__new__(FSDPEngine)
    engine.module = torch.nn.ParameterList([parameter])
    engine.optimizer = torch.optim.SGD([parameter], lr=1.0)
    engine.optimizer_config = OmegaConf.create({"clip_grad": 2.0})
    engine._qat_enabled = False
    assert engine.optimizer_step() == pytest.approx(5.0)
    assert parameter.norm().item() == pytest.approx(2.0, rel=1e-4)

    assert found(good, **{f"{ACTOR}optim__clip_grad": 0.5}) == []  # grad_clip has verl's default then
    (finding,) = found(good, **{f"{ACTOR}grad_clip": 0.3})
    assert finding.warning
    assert "actor.grad_clip=0.3 changes nothing: verl clips by" in finding.found
    assert "actor.optim.clip_grad=1.0" in finding.found
    assert "set actor_rollout_ref.actor.optim.clip_grad=0.3" in finding.fix
    assert found(good, **{f"{ACTOR}grad_clip": 0.3, f"{ACTOR}optim__clip_grad": 0.3}) == []
    assert found(good, **{f"{ACTOR}grad_clip": 0.3, f"{ACTOR}optim__grad_clip": 0.3}) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"do_sample": True, "n": 4}, "do_sample=True changes nothing: verl's agent loop validates at"),
        ({"do_sample": True}, "val_kwargs.temperature=0, greedily"),
        ({"temperature": 0.7}, "val_kwargs.do_sample=False changes nothing"),
        ({"temperature": 0.7, "do_sample": True}, None),
    ],
    ids=str,
)
def test_the_validation_is_sampled_by_its_temperature_alone(
    good: DictConfig, values: dict[str, Any], said: str | None
) -> None:
    findings = found(good, **{f"{ROLLOUT}val_kwargs__{name}": value for name, value in values.items()})
    assert [finding.warning for finding in findings] == ([] if said is None else [True])
    assert all(str(said) in finding.found for finding in findings)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("trainer__balance_batch", False, "trainer.balance_batch=False changes nothing"),
        ("trainer__esi_redundant_time", 600, "trainer.esi_redundant_time=600 changes nothing"),
        ("data__reward_fn_key", "source", "data.reward_fn_key=source changes nothing"),
        ("algorithm__use_pf_ppo", True, "algorithm.use_pf_ppo=True changes nothing"),
        (f"{ROLLOUT}over_sample_rate", 0.5, "over_sample_rate=0.5 changes nothing"),
        (f"{ROLLOUT}do_sample", False, "rollout.do_sample=False changes nothing"),
        (f"{ROLLOUT}repetition_penalty", 1.1, "repetition_penalty=1.1 changes nothing"),
        ("actor_rollout_ref__model__mtp__enable_train", True, "mtp.enable_train=True changes nothing"),
        (f"{ROLLOUT}moe_load_balance_metrics_interval", 5, "metrics_interval=5 changes nothing"),
        (f"{TURNS}max_assistant_turns", 3, "max_assistant_turns=3 changes nothing"),
        (f"{TURNS}max_user_turns", 3, "max_user_turns=3 changes nothing"),
        (f"{TURNS}max_tool_response_length", 512, "max_tool_response_length=512 changes nothing"),
        (f"{TURNS}max_parallel_calls", 4, "max_parallel_calls=4 changes nothing"),
    ],
)
def test_an_option_of_verls_that_nothing_reads_is_warned_about(
    good: DictConfig, option: str, value: Any, said: str
) -> None:
    (finding,) = found(good, **{option: value})
    assert finding.warning
    assert said in finding.found


def test_a_coefficient_that_no_checkpoint_holds_is_warned_about(good: DictConfig) -> None:
    adaptive = {"algorithm__use_kl_in_reward": True, "algorithm__kl_ctrl__type": "adaptive"}
    (finding,) = found(good, **adaptive)
    assert finding.warning
    assert "a resumed run begins with algorithm.kl_ctrl.kl_coef=0.001 again" in finding.found
    assert found(good, **{**adaptive, "algorithm__use_kl_in_reward": False}) == []


def test_rollouts_that_are_read_from_files_are_warned_about(good: DictConfig) -> None:
    (finding,) = found(good, skip__rollout_tq__enable=True, skip__rollout_tq__steps=[1, 2])
    assert finding.warning
    assert "takes the rollouts of its steps [1, 2] from" in finding.found


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("trainer__default_hdfs_dir", "hdfs://a/b", "default_hdfs_dir=hdfs://a/b: no checkpoint is copied"),
        (f"{ACTOR}checkpoint__async_save", True, "latest_checkpointed_iteration.txt"),
        (f"{ROLLOUT}ignore_eos", True, "ignore_eos=True: vLLM would not end a turn at its end token"),
        (f"{ROLLOUT}full_determinism", True, "all rollouts of a question on one server would be alike"),
        (f"{TURNS}tool_config_path", "tools.yaml", "tool_config_path=tools.yaml with search.protocol="),
        (f"{TURNS}function_tool_path", "tools.py", "function_tool_path=tools.py with search.protocol="),
    ],
)
def test_an_option_whose_promise_is_not_kept_is_refused(
    good: DictConfig, option: str, value: Any, said: str
) -> None:
    (finding,) = found(good, **{option: value})
    assert finding.fatal
    assert said in finding.found
    assert finding.fix.startswith("set ")


def test_seeds_of_our_own_make_a_deterministic_server_draw_different_rollouts(good: DictConfig) -> None:
    assert found(good, **{f"{ROLLOUT}full_determinism": True}, search__sampling_seed=1) == []


def test_unread_options_are_among_the_checks_of_a_start(good: DictConfig) -> None:
    (finding,) = check_method(change(good, trainer__default_hdfs_dir="hdfs://a/b"))
    assert finding.fatal
