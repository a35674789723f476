"""Weights, normalisation and diagnostics against loops."""

from __future__ import annotations

import math

import torch

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.loss import sd_loss, token_weights
from sd_search_verl.distill.schedule import alpha_at


def test_mean_over_tokens_then_over_trajectories() -> None:
    values = [[0.1, 0.3], [], [0.5, 0.6, 0.7], [0.4]]
    weights = [1.0, 1.0, 0.5, 2.0]
    naive = sum(w * sum(v) / len(v) for v, w in zip(values, weights, strict=True) if v) / 3
    flat = torch.tensor([x for trajectory in values for x in trajectory])
    per_token = token_weights(torch.tensor([2, 0, 3, 1]), torch.tensor(weights))
    assert math.isclose(float(sd_loss(flat, per_token, 3)), naive, rel_tol=1e-6)
    assert sd_loss(flat[-1:], per_token[-1:], 1) == 2 * flat[-1]  # one token of one trajectory


def test_parts_add_up_to_the_whole() -> None:
    values = torch.rand(10)
    counts = torch.tensor([3, 0, 5, 2])
    weights = token_weights(counts, torch.ones(4))
    whole = sd_loss(values, weights, 3)
    parts = sum(
        sd_loss(v, w, 3) for v, w in zip(values.split([3, 5, 2]), weights.split([3, 5, 2]), strict=True)
    )
    torch.testing.assert_close(whole, parts)


def test_nothing_to_compare_is_zero() -> None:
    assert (
        float(sd_loss(torch.zeros(0), token_weights(torch.zeros(2, dtype=torch.long), torch.ones(2)), 0))
        == 0.0
    )


def test_alpha_is_zero_during_warm_up_and_constant_after() -> None:
    config = SDSearchConfig(alpha=0.5, warmup_steps=3)
    assert [alpha_at(step, config) for step in (1, 3, 4, 1000)] == [0.0, 0.0, 0.5, 0.5]
    assert alpha_at(1, SDSearchConfig(alpha=0.5, warmup_steps=0)) == 0.5
