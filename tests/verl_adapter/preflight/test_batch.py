"""Batches that verl cannot cut, which it finds out after the models are loaded or after the first rollouts."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig
from support.good_run import change

from sd_search_verl.verl_adapter.preflight.batch import check_batch
from sd_search_verl.verl_adapter.preflight.method import check_method

ACTOR, ROLLOUT = "actor_rollout_ref__actor__", "actor_rollout_ref__rollout__"
DYNAMIC = {f"{ACTOR}use_dynamic_bsz": True, f"{ROLLOUT}log_prob_use_dynamic_bsz": True}
MINI = {f"{ACTOR}ppo_mini_batch_size": 8, f"{ROLLOUT}n": 5, **DYNAMIC}


def found(config: DictConfig, **values: Any) -> list[str]:
    findings = [*check_batch(change(config, **values))]
    assert all(finding.fatal for finding in findings)
    return [finding.found for finding in findings]


def test_the_good_run_has_nothing_to_find(good: DictConfig) -> None:
    assert found(good) == []


def test_the_rollouts_of_a_mini_batch_must_divide_among_the_ranks(good: DictConfig) -> None:
    assert found(good, **MINI, trainer__n_gpus_per_node=8) == []
    (text,) = found(good, **MINI, trainer__n_gpus_per_node=8, trainer__nnodes=2)
    assert "the 40 rollouts of a mini-batch do not divide among 16 ranks" in text
    fix = next(check_batch(change(good, **MINI, data__train_batch_size=256, trainer__n_gpus_per_node=16))).fix
    assert fix.endswith("such as 16")  # a divisor of the batch
    halves = {f"{ACTOR}ulysses_sequence_parallel_size": 2}
    assert found(good, **MINI, **halves, trainer__n_gpus_per_node=16) == []
    inner = {f"{ACTOR}fsdp_config__ulysses_sequence_parallel_size": 2}
    assert found(good, **MINI, **inner, trainer__n_gpus_per_node=16) == []


def test_micro_batches_of_a_fixed_size_divide_what_a_rank_has(good: DictConfig) -> None:
    sizes = {f"{ACTOR}ppo_mini_batch_size": 2, f"{ROLLOUT}n": 5, "data__train_batch_size": 4}
    micro = {f"{ACTOR}ppo_micro_batch_size_per_gpu": 20, f"{ROLLOUT}log_prob_micro_batch_size_per_gpu": 20}
    (text,) = found(good, **sizes, **micro)
    assert (
        "ppo_micro_batch_size_per_gpu=20 does not divide the 10 rollouts that a rank has of a mini-batch"
        in text
    )
    (text,) = found(
        good, **{**sizes, **micro, f"{ACTOR}ppo_micro_batch_size_per_gpu": 5, "data__train_batch_size": 6}
    )
    assert (
        "log_prob_micro_batch_size_per_gpu=20 does not divide the 30 rollouts that a rank has of a batch"
        in text
    )
    assert found(good, **sizes, **micro, **DYNAMIC) == []


def test_processes_must_divide_among_the_servers(good: DictConfig) -> None:
    parallel = {f"{ROLLOUT}tensor_model_parallel_size": 3}
    (text,) = found(good, **MINI, **parallel, trainer__n_gpus_per_node=8)
    assert "8 processes do not divide into rollout servers of 3" in text
    apart = {
        "actor_rollout_ref__hybrid_engine": False,
        "trainer__v1__trainer_mode": "sd_search_separate_async",
    }
    assert found(good, **MINI, **parallel, **apart, trainer__n_gpus_per_node=8) == []


def test_questions_are_read_in_whole_parts_of_a_batch(good: DictConfig) -> None:
    (text,) = found(good, data__gen_batch_size=3)
    assert "data.gen_batch_size=3 does not divide data.train_batch_size=8" in text
    assert found(good, data__gen_batch_size=4) == []
    assert found(good, data__gen_batch_size=3, trainer__v1__trainer_mode="sd_search_colocate_async") == []
    assert found(good, data__gen_batch_size=3, algorithm__filter_groups__enable=True) == []


def test_updates_and_log_probs_are_cut_in_the_same_way(good: DictConfig) -> None:
    (text,) = found(good, **{**DYNAMIC, f"{ROLLOUT}log_prob_use_dynamic_bsz": False})
    assert "use_dynamic_bsz=True and actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=False" in text
    assert found(good, **DYNAMIC) == []


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({f"{ACTOR}ppo_micro_batch_size_per_gpu": None}, "actor.ppo_micro_batch_size_per_gpu"),
        ({f"{ROLLOUT}log_prob_micro_batch_size_per_gpu": None}, "rollout.log_prob_micro_batch_size_per_gpu"),
        ({**DYNAMIC, f"{ACTOR}ppo_max_token_len_per_gpu": None}, "actor.ppo_max_token_len_per_gpu"),
    ],
    ids=str,
)
def test_a_size_that_verl_asserts_without_a_word_is_named(
    good: DictConfig, values: dict[str, Any], option: str
) -> None:
    assert f"actor_rollout_ref.{option} is null" in found(good, **values)[0]


def test_batches_are_among_the_checks_of_a_start(good: DictConfig) -> None:
    (finding,) = check_method(change(good, data__gen_batch_size=3))
    assert finding.fatal
