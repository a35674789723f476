"""Switches that would do nothing, or what verl cannot carry, are refused with the reason."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig
from support.good_run import change

from sd_search_verl.config import ConfigError
from sd_search_verl.verl_adapter import preflight
from sd_search_verl.verl_adapter.preflight.objectives import check_objectives

ACTOR = "actor_rollout_ref__actor__"


def test_a_regularizer_with_one_update_a_step_is_refused(good: DictConfig) -> None:
    one = change(good, sd_search__regularizer="llds", data__train_batch_size=8)
    one = change(one, **{f"{ACTOR}ppo_mini_batch_size": 8})
    with pytest.raises(
        ConfigError, match=r"regularizer=llds penalises tokens .* one update: .*size=8.*Fix: lower"
    ):
        preflight.refuse_bad_start(one)
    for cure in (
        {f"{ACTOR}ppo_mini_batch_size": 4},
        {f"{ACTOR}ppo_epochs": 2},
        {"sd_search__regularizer": "none"},
    ):
        assert [*check_objectives(change(one, **cure))] == []
    assert [*check_objectives(change(one, algorithm__rollout_correction={"bypass_mode": True}))] == []


def test_a_moving_average_needs_weights_that_are_gathered_anew(good: DictConfig) -> None:
    ema = change(good, sd_search__teacher="ema")
    assert [*check_objectives(ema)] == []
    (finding,) = check_objectives(change(ema, **{f"{ACTOR}fsdp_config__reshard_after_forward": False}))
    assert finding.fatal
    assert "reshard_after_forward=False keeps weights that were gathered before" in finding.found
    (finding,) = check_objectives(change(ema, **{f"{ACTOR}strategy": "fsdp"}))
    assert "set actor_rollout_ref.actor.strategy=fsdp2" in finding.fix


def test_information_gain_needs_another_question(good: DictConfig) -> None:
    (finding,) = check_objectives(change(good, sd_search__information_gain=0.3, data__train_batch_size=1))
    assert finding.fatal
    assert "data.train_batch_size=1 has none" in finding.found


def test_a_factor_that_is_almost_one_is_a_warning(good: DictConfig) -> None:
    (finding,) = check_objectives(change(good, sd_search__use="advantage", sd_search__alpha=0.001))
    assert finding.warning
    assert "alpha=0.001 with sd_search.use=advantage changes an advantage by 0.05% at most" in finding.found
    assert [*check_objectives(change(good, sd_search__use="advantage", sd_search__alpha=0.5))] == []


@pytest.mark.parametrize(
    "switch",
    [{"information_gain": 0.3}, {"use": "advantage", "alpha": 0.5}, {"regularizer": "llds"}],
    ids=str,
)
def test_turns_and_documents_are_not_read_from_a_mask_without_rejected_tokens(
    good: DictConfig, switch: dict[str, object]
) -> None:
    changes = {f"sd_search__{name}": value for name, value in switch.items()}
    rejecting = change(good, algorithm__rollout_correction={"rollout_rs": "token_k1"})
    assert [*check_objectives(rejecting)] == []
    (name, value), *_ = switch.items()
    found = [f for f in check_objectives(change(rejecting, **changes)) if "rollout_rs" in f.name]
    assert [f.fatal for f in found] == [True]
    assert f"in which sd_search.{name}={value} finds turns and documents" in found[0].found
