"""Metrics of a step with several mini-batches."""

from __future__ import annotations

from typing import Any

import pytest
from support.engine import batch_of, gradients, recorded_rows, settings, teacher_inputs
from support.tiny import byte_tokenizer


def test_means_over_scored_tokens_are_those_of_the_step(worker: Any) -> None:
    """Mini-batches hold different numbers of scored tokens, and verl takes the mean of what each reports."""
    config, rows = settings(), recorded_rows(byte_tokenizer())
    worker.loss_fn.config = config
    inputs = teacher_inputs(rows, config, byte_tokenizer())
    middle = len(rows) // 2
    halves = [slice(0, middle), slice(middle, None)]
    tokens = [
        sum(len(row.student_positions) for item in inputs[half] for row in item.rows) for half in halves
    ]
    alone = [gradients(worker, batch_of(rows[half], inputs[half], 0.7))[1] for half in halves]
    assert tokens[0] != tokens[1]
    _, whole = gradients(worker, batch_of(rows, inputs, 0.7, mini_batch_size=middle))
    for name in ("jsd", "teacher_entropy", "student_entropy", "entropy_gap", "top_k_mass"):
        means = [float(metrics[f"sd_search/{name}"][0]) for metrics in alone]
        mean = sum(value * count for value, count in zip(means, tokens, strict=True)) / sum(tokens)
        assert whole[f"sd_search/{name}"] == [pytest.approx(mean, rel=1e-5)], name


def test_l_sd_is_the_mean_of_all_mini_batches_as_the_policy_loss_is(worker: Any) -> None:
    """So that the losses of the metrics add up; one without scored tokens has an L_SD of 0."""
    config, rows = settings(), recorded_rows(byte_tokenizer())
    worker.loss_fn.config = config
    searching = [row for row in rows if row.rollout.spans][:4]
    silent = [row for row in rows if not row.rollout.spans]
    silent = (silent * 4)[:4]
    some = [*searching, *silent]
    inputs = teacher_inputs(some, config, byte_tokenizer())
    _, alone = gradients(worker, batch_of(searching, inputs[:4], 0.7))
    _, whole = gradients(worker, batch_of(some, inputs, 0.7, mini_batch_size=4))
    assert len(silent) == 4
    assert whole["sd_search/loss"] == [pytest.approx(alone["sd_search/loss"][0] / 2, rel=1e-5)]


def test_where_there_is_no_l_sd_none_is_reported(worker: Any) -> None:
    config, rows = settings(use="advantage"), recorded_rows(byte_tokenizer())[:8]
    worker.loss_fn.config = config
    _, metrics = gradients(worker, batch_of(rows, teacher_inputs(rows, config, byte_tokenizer()), 0.7))
    assert "sd_search/loss" not in metrics
    assert "sd_search/jsd" in metrics
