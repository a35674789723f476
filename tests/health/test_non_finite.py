"""NaN and infinity are found where they arise: in verl's real worker, with poisoned weights and poisoned rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.engine import (
    Row,
    batch_of,
    compose,
    make_worker,
    recorded_rows,
    settings,
    single_rank_environment,
    teacher_inputs,
    weights,
)
from support.tiny import byte_tokenizer, save_tiny_model
from verl.utils import tensordict_utils as tu
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict

from sd_search_verl.health.non_finite import is_skipped_update, non_finite_losses, non_finite_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def update(worker: Any, rows: list[Row], alpha: float) -> dict[str, Any]:
    """One update; the metrics as verl's trainer reduces them."""
    inputs = teacher_inputs(rows, settings(), byte_tokenizer()) if alpha else None
    output = worker.update_actor(batch_of(rows, inputs, alpha))
    return dict(reduce_metrics(rename_dict(tu.get(output, "metrics"), "actor/")))


def test_a_healthy_update_is_finite(model: Path) -> None:
    single_rank_environment()
    metrics = update(make_worker(compose(model)), recorded_rows(byte_tokenizer())[:8], 0.1)
    assert non_finite_losses(metrics) == []
    assert not is_skipped_update(metrics)
    assert "actor/pg_loss" in metrics


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_poisoned_weights_are_seen_in_the_losses(model: Path, alpha: float) -> None:
    single_rank_environment()
    worker = make_worker(compose(model))
    with torch.no_grad():
        next(iter(worker.actor.engine.module.parameters())).fill_(torch.nan)
    metrics = update(worker, recorded_rows(byte_tokenizer())[:8], alpha)
    found = non_finite_losses(metrics)
    assert "actor/pg_loss" in found
    assert ("actor/sd_search/jsd" in found) == (alpha > 0)
    assert is_skipped_update(metrics)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_poisoned_reward_leaves_the_weights_alone(model: Path, bad: float) -> None:
    single_rank_environment()
    worker = make_worker(compose(model))
    rows = recorded_rows(byte_tokenizer())[:8]
    rows[5].advantage = bad
    before = weights(worker)
    metrics = update(worker, rows, 0.1)
    assert "actor/pg_loss" in non_finite_losses(metrics)
    assert all(torch.equal(before[name], after) for name, after in weights(worker).items())
    advantages = [torch.full((3,), row.advantage) for row in rows]
    log_probs = [torch.tensor(row.old_log_probs) for row in rows]
    log_probs[2][1] = -torch.inf
    assert non_finite_rows({"advantages": advantages, "old_log_probs": log_probs}) == {
        2: ["old_log_probs"],
        5: ["advantages"],
    }
