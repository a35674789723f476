"""Alarms come when they should, and only then."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sd_search_verl.config import ConfigError, HealthConfig, read_config
from sd_search_verl.health.collapse import (
    CORRECT_LOG_PROB,
    ENTROPY,
    EQUAL_REWARDS,
    FAILURE_RATE,
    GRAD_SHARE,
    LENGTH,
    NAMES,
    NO_ANSWER,
    PARTIAL_GROUPS,
    REWARD,
    SEARCHES,
    SHORTENED_BLOCKS,
    alarms,
    levels,
)

HEALTHY = {
    SEARCHES: 1.5,
    LENGTH: 400.0,
    ENTROPY: 0.8,
    REWARD: 0.3,
    CORRECT_LOG_PROB: -0.4,
    PARTIAL_GROUPS: 0.0,
}
CONFIG = HealthConfig(window=3)


def history(metric: str, *values: float) -> list[dict[str, float]]:
    """Three healthy steps, then ``values`` of one metric."""
    return [HEALTHY] * 3 + [{**HEALTHY, metric: value} for value in values]


def raised(rows: list[dict[str, float]], config: HealthConfig = CONFIG) -> list[str]:
    return [alarm.name for alarm in alarms(rows, config)]


@pytest.mark.parametrize(
    ("name", "metric", "bad", "fine"),
    [
        ("searches", SEARCHES, 0.05, 0.2),
        ("searches", SEARCHES, 4.6, 4.4),
        ("response_length", LENGTH, 110.0, 130.0),
        ("response_length", LENGTH, 1210.0, 1190.0),
        ("entropy", ENTROPY, 0.07, 0.09),
        ("entropy", ENTROPY, 2.5, 2.3),
        ("reward", REWARD, 0.14, 0.16),
        ("correct_log_prob", CORRECT_LOG_PROB, -0.71, -0.69),
    ],
)
def test_a_level_over_its_limit_is_an_alarm(name: str, metric: str, bad: float, fine: float) -> None:
    assert raised(history(metric, bad, bad, bad)) == [name]
    assert raised(history(metric, fine, fine, fine)) == []
    assert raised(history(metric, bad)) == []  # one step is noise
    assert name in NAMES


@pytest.mark.parametrize(
    "switch",
    [
        {"min_searches_per_rollout": None},
        {"response_length_range": None},
        {"entropy_range": None},
        {"max_reward_drop": None},
        {"max_correct_log_prob_drop": None},
    ],
    ids=lambda switch: next(iter(switch)),
)
def test_every_alarm_can_be_switched_off(switch: dict[str, Any]) -> None:
    dead = {SEARCHES: 0.0, LENGTH: 1.0, ENTROPY: 0.0, REWARD: 0.0, CORRECT_LOG_PROB: -9.0}
    rows = [HEALTHY] * 3 + [dead] * 3
    everything = raised(rows)
    assert everything == ["searches", "response_length", "entropy", "reward", "correct_log_prob"]
    assert len(raised(rows, HealthConfig(window=3, **switch))) == 4


def test_a_policy_that_neither_searches_nor_answers_is_an_alarm_at_once() -> None:
    assert raised([{NO_ANSWER: 0.96}]) == ["no_answer"]
    assert raised([{NO_ANSWER: 0.95}]) == []
    assert raised([{NO_ANSWER: 1.0}], HealthConfig(max_no_answer=None)) == []


def test_groups_of_equal_rewards_are_an_alarm_after_one_window() -> None:
    lost = {**HEALTHY, EQUAL_REWARDS: 1.0, REWARD: 0.0}
    assert raised([lost] * 2) == []
    (alarm,) = alarms([lost] * 3, CONFIG)
    assert (alarm.name, alarm.name in NAMES) == ("equal_rewards", True)
    assert "in 100% of the groups all rollouts have one reward" in alarm.text
    assert "reward 0. Where it is low" in alarm.text
    assert raised([lost] * 2 + [{**lost, EQUAL_REWARDS: 0.93}]) == []  # 0.977 over the window
    assert raised([{EQUAL_REWARDS: 1.0}] * 3) == ["equal_rewards"]
    assert raised([lost] * 3, HealthConfig(window=3, max_equal_rewards=None)) == []


def test_failed_searches_are_an_alarm_at_once() -> None:
    assert raised([{FAILURE_RATE: 0.06}]) == ["failed_searches"]
    assert raised([{FAILURE_RATE: 0.05}]) == raised([{}]) == []
    assert raised([{FAILURE_RATE: 1.0}], HealthConfig(max_failed_searches=None)) == []


def test_partial_groups_are_an_alarm_at_once() -> None:
    (alarm,) = alarms([{PARTIAL_GROUPS: 0.25}], CONFIG)
    assert alarm.name == "partial_groups"
    assert "25% of the groups lack rollouts" in alarm.text
    assert alarms([{PARTIAL_GROUPS: 0.25}], HealthConfig(max_partial_groups=0.5)) == []
    assert alarms([{PARTIAL_GROUPS: 0.25}, {PARTIAL_GROUPS: 0.0}], CONFIG) == []


def test_blocks_that_lost_rollouts_are_an_alarm_at_once() -> None:
    (alarm,) = alarms([{SHORTENED_BLOCKS: 0.75}], CONFIG)
    assert alarm.name == "shortened_blocks"
    assert alarm.name in NAMES
    assert "75% of the hindsight blocks lost rollouts" in alarm.text
    assert "Raise sd_search.hindsight.max_tokens" in alarm.text
    assert alarms([{SHORTENED_BLOCKS: 0.75}], HealthConfig(max_shortened_blocks=0.8)) == []
    assert alarms([{SHORTENED_BLOCKS: 0.75}], HealthConfig(max_shortened_blocks=None)) == []


def test_steps_without_a_metric_are_passed_over() -> None:
    rows = [{REWARD: 1.0}, {}, {REWARD: math.nan}, {REWARD: 3.0}]
    assert levels(rows, REWARD, 2) == [2.0]
    assert levels(rows, REWARD, 3) == []
    assert alarms([], CONFIG) == []


@pytest.mark.parametrize(
    "values",
    [
        {"window": 0},
        {"entropy_range": [0.1]},
        {"response_length_range": [1.5, 3.0]},
        {"max_reward_drop": 1.5},
        {"max_searches_change": 1.0},
        {"max_shortened_blocks": 1.5},
    ],
    ids=str,
)
def test_bad_thresholds_name_their_field(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"health.{next(iter(values))}="):
        read_config(HealthConfig, values, "health")


def test_a_small_share_of_the_gradient_is_an_alarm_after_three_measurements() -> None:
    small = [{}, {GRAD_SHARE: 0.002}, {}, {GRAD_SHARE: 0.003}, {GRAD_SHARE: 0.004}, {}]
    (alarm,) = alarms(small, HealthConfig())
    assert alarm.name == "grad_share"
    assert "0.40% of GRPO's gradient" in alarm.text
    assert alarms([{GRAD_SHARE: 0.5}] * 2 + small, HealthConfig()) == [alarm]
    assert alarms(small[:4], HealthConfig()) == []
    assert alarms([*small, {GRAD_SHARE: 0.02}], HealthConfig()) == []
    assert alarms(small, HealthConfig(min_grad_share=None)) == []


def test_a_teacher_that_only_copies_is_an_alarm() -> None:
    def names(shares: list[float]) -> list[str]:
        return [alarm.name for alarm in alarms([{"sd_search/copy_share": s} for s in shares], HealthConfig())]

    assert names([0.99, 0.97, 0.98]) == ["copying"]
    assert names([0.2, 0.3, 0.99, 0.97, 0.98]) == ["copying"]
    assert names([0.99, 0.98]) == []
    assert names([0.99, 0.5, 0.98]) == []
    assert alarms([{"sd_search/copy_share": 1.0}] * 3, HealthConfig(max_copy_share=None)) == []
