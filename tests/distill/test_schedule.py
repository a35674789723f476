"""The weights of the two losses over training."""

from __future__ import annotations

import math

import pytest

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.schedule import alpha_at, is_measured, policy_weight_at


def weights(steps: int, **changes: object) -> list[tuple[float, float]]:
    config = SDSearchConfig(alpha=0.5, **changes)
    return [(policy_weight_at(step, config), alpha_at(step, config)) for step in range(1, steps + 1)]


def test_a_cosine_falls_from_alpha_to_nothing_after_the_warm_up() -> None:
    found = weights(8, warmup_steps=2, schedule="cosine", distil_steps=4)
    assert [weight for weight, _ in found] == [1.0] * 8
    expected = [0.0, 0.0, *(0.25 * (1 + math.cos(math.pi * t / 4)) for t in range(4)), 0.0, 0.0]
    assert [alpha for _, alpha in found] == pytest.approx(expected)


def test_distillation_first_then_grpo_to_the_end() -> None:
    found = weights(6, warmup_steps=1, schedule="stages", distil_steps=2)
    assert found == [(1, 0), (0, 0.5), (0, 0.5), (1, 0), (1, 0), (1, 0)]


def test_stages_in_turns() -> None:
    found = weights(7, warmup_steps=0, schedule="stages", distil_steps=1, rl_steps=2)
    assert found == [(0, 0.5), (1, 0), (1, 0), (0, 0.5), (1, 0), (1, 0), (0, 0.5)]


def test_without_alpha_there_is_no_stage_of_distillation() -> None:
    config = SDSearchConfig(alpha=0.0, warmup_steps=0, schedule="stages")
    assert policy_weight_at(1, config) == 1.0


def test_a_measure_is_taken_in_the_first_step_with_alpha_and_then_at_intervals() -> None:
    config = SDSearchConfig(alpha=0.5, warmup_steps=4)
    assert [step for step in range(1, 40) if is_measured(step, 10, config)] == [5, 15, 25, 35]
    assert not any(is_measured(step, None, config) for step in range(200))
    assert not any(is_measured(step, 10, config.replace(alpha=0.0)) for step in range(200))
