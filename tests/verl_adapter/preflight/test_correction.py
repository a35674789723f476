"""verl's rollout correction and estimators: what its V1 trainer does not compute is refused."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig
from support.good_run import change

from sd_search_verl.finding import Finding
from sd_search_verl.verl_adapter.preflight.correction import check_correction
from sd_search_verl.verl_adapter.preflight.method import check_method

ROLLOUT = "actor_rollout_ref__rollout__"
LOSS = "actor_rollout_ref__actor__policy_loss__"


def correction(**values: Any) -> dict[str, Any]:
    return {f"algorithm__rollout_correction__{name}": value for name, value in values.items()}


def found(config: DictConfig, **values: Any) -> list[Finding]:
    return [*check_correction(change(config, **values))]


def test_the_good_run_has_nothing_to_find(good: DictConfig) -> None:
    assert found(good) == []
    assert found(good, **correction(rollout_is="token")) == []
    assert found(good, **correction(bypass_mode=True)) == []


@pytest.mark.parametrize(
    "asked", [{"rollout_is": "token"}, {"rollout_rs": "token_k1"}, {"bypass_mode": True}], ids=str
)
def test_a_correction_without_log_probs_of_the_rollouts_is_refused(
    good: DictConfig, asked: dict[str, Any]
) -> None:
    """verl leaves the correction out where the batch has none, and reads them in bypass mode."""
    off = {f"{ROLLOUT}calculate_log_probs": False}
    (finding,) = found(good, **correction(**asked), **off)
    assert finding.fatal
    assert "calculate_log_probs=False" in finding.found
    assert found(good, **off) == []


def test_numbers_that_are_no_log_probs_of_the_rollouts_are_refused(good: DictConfig) -> None:
    weighted = correction(rollout_is="token")
    (finding,) = found(good, **weighted, **{f"{ROLLOUT}logprobs_mode": "raw_logits"})
    assert finding.fatal
    assert "logprobs_mode=raw_logits" in finding.found
    raw = {f"{ROLLOUT}logprobs_mode": "raw_logprobs"}
    assert found(good, **weighted, **raw) == []  # the same at temperature 1
    assert len(found(good, **weighted, **raw, **{f"{ROLLOUT}temperature": 0.7})) == 1
    assert found(good, **raw, **{f"{ROLLOUT}temperature": 0.7}) == []


@pytest.mark.parametrize("values", [{"rollout_rs": "token_k1"}, {"loss_type": "reinforce"}], ids=str)
@pytest.mark.parametrize("alpha", [0, 0.3])
def test_what_bypass_mode_leaves_out_is_refused(
    good: DictConfig, values: dict[str, Any], alpha: float
) -> None:
    (finding,) = found(good, **correction(bypass_mode=True, **values), sd_search__alpha=alpha)
    assert finding.fatal
    assert "never hands it to the policy loss" in finding.found
    ((name, value),) = values.items()
    handed = {f"{LOSS}loss_mode": "bypass_mode", f"{LOSS}rollout_correction__{name}": value}
    given = found(good, **correction(bypass_mode=True, **values), **handed, sd_search__alpha=0)
    assert given == []


def test_rejection_inside_the_policy_loss_is_refused_with_l_sd(good: DictConfig) -> None:
    inside = {f"{LOSS}loss_mode": "bypass_mode", f"{LOSS}rollout_correction__rollout_rs": "token_k1"}
    (finding,) = found(good, **inside)
    assert finding.fatal
    assert "rejects tokens inside verl's policy loss" in finding.found
    assert found(good, **inside, sd_search__alpha=0) == []


@pytest.mark.parametrize(
    "estimator", ["remax", "gdpo", "optimal_token_baseline", "tir_optimal_token_baseline"]
)
def test_an_estimator_that_reads_what_the_trainer_does_not_compute_is_refused(
    good: DictConfig, estimator: str
) -> None:
    (finding,) = check_method(change(good, algorithm__adv_estimator=estimator))
    assert finding.fatal
    assert f"algorithm.adv_estimator={estimator} reads" in finding.found
