"""The measured share of the method's gradient, against the two gradients; and an update that it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import fsdp1, sharded_ranks
from support.engine import (
    Row,
    batch_of,
    compose,
    gradients,
    make_worker,
    recorded_rows,
    settings,
    single_rank_environment,
    teacher_inputs,
    weights,
)
from support.tiny import byte_tokenizer

from sd_search_verl.verl_adapter.fields import MEASURE_GRAD_SHARE, POLICY_WEIGHT

OPTIONS = {"mini_batch_size": 8, "micro_batch_size_per_gpu": 2}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return recorded_rows(byte_tokenizer())


def batch(rows: list[Row], alpha: float, **options: Any) -> Any:
    inputs = teacher_inputs(rows, settings(), byte_tokenizer())
    return batch_of(rows, inputs, alpha, traced=[0, 1], **options)


def norm(found: dict[str, torch.Tensor]) -> float:
    return float(torch.stack([gradient.double().square().sum() for gradient in found.values()]).sum().sqrt())


@pytest.mark.parametrize(
    "overrides", [[], sharded_ranks.FSDP1, sharded_ranks.ADAPTERS], ids=["fsdp2", "fsdp1", "adapters"]
)
def test_the_share_is_that_of_two_gradients(model: Path, rows: list[Row], overrides: list[str]) -> None:
    single_rank_environment()
    with fsdp1.cpu_states_allowed():
        worker = make_worker(compose(model, overrides))
    worker.loss_fn.config = settings()
    part = rows[:8]
    still = [Row(row.rollout, 0.0, row.old_log_probs) for row in part]
    method, _ = gradients(worker, batch(still, 0.3))
    policy, _ = gradients(worker, batch(part, 0.0))
    _, metrics = gradients(worker, batch(part, 0.3, **{MEASURE_GRAD_SHARE: True}))
    assert metrics["sd_search/grad_share"] == [pytest.approx(norm(method) / norm(policy), rel=1e-4)]


def test_nothing_is_measured_unasked_or_where_grpo_has_no_gradient(worker: Any, rows: list[Row]) -> None:
    worker.loss_fn.config = settings()
    still = [Row(row.rollout, 0.0, row.old_log_probs) for row in rows[:8]]
    assert "sd_search/grad_share" not in gradients(worker, batch(rows[:8], 0.3))[1]
    assert "sd_search/grad_share" not in gradients(worker, batch(still, 0.3, **{MEASURE_GRAD_SHARE: True}))[1]


def test_the_first_mini_batch_in_which_grpo_has_a_gradient_is_measured(worker: Any, rows: list[Row]) -> None:
    worker.loss_fn.config = settings()
    still = [Row(row.rollout, 0.0, row.old_log_probs) for row in rows[:8]]
    for parts in ((still, rows[:8]), (rows[:8], still)):
        whole = batch([*parts[0], *parts[1]], 0.3, mini_batch_size=8, **{MEASURE_GRAD_SHARE: True})
        assert len(gradients(worker, whole)[1]["sd_search/grad_share"]) == 1


def test_a_stage_of_l_sd_alone_is_measured_beside_grpos_own_gradient(worker: Any, rows: list[Row]) -> None:
    worker.loss_fn.config = settings()
    both = batch(rows[:8], 0.3, **{MEASURE_GRAD_SHARE: True})
    alone = batch(rows[:8], 0.3, **{MEASURE_GRAD_SHARE: True, POLICY_WEIGHT: 0.0})
    found = [gradients(worker, one)[1]["sd_search/grad_share"] for one in (both, alone)]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize(
    "overrides",
    [[], ["actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16"]],
    ids=["fp32", "bf16"],
)
def test_the_update_is_bitwise_the_same_with_and_without(
    model: Path, rows: list[Row], overrides: list[str]
) -> None:
    single_rank_environment()
    workers = [make_worker(compose(model, overrides)) for _ in range(2)]
    found = []
    for worker, measure in zip(workers, (False, True), strict=True):
        worker.loss_fn.config = settings()
        for _ in range(2):
            worker.update_actor(batch(rows, 0.3, **OPTIONS, **{MEASURE_GRAD_SHARE: measure}))
        found.append((weights(worker), worker.take_credits()))
    assert all(torch.equal(found[0][0][name], value) for name, value in found[1][0].items())
    assert found[0][1] == found[1][1]
