"""What labels do, measured in the worker as the probe measures it; the contrastive target against its formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.engine import (
    Row,
    batch_of,
    compose,
    gradients,
    make_worker,
    recorded_rows,
    settings,
    single_rank_environment,
    weights,
)
from support.tiny import byte_tokenizer
from transformers import AutoModelForCausalLM

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.divergence import divergence
from sd_search_verl.distill.support import teacher_targets
from sd_search_verl.hindsight.teacher_inputs import build_teacher_inputs
from sd_search_verl.probe.config import ProbeConfig
from sd_search_verl.probe.measures import labels_of
from sd_search_verl.probe.scores import score_groups
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.verl_adapter.actor.labels import contrast
from sd_search_verl.verl_adapter.fields import MEASURE_LABELS

TOKENIZER = byte_tokenizer()
OPTIONS = {"mini_batch_size": 8, "micro_batch_size_per_gpu": 2}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return recorded_rows(TOKENIZER)


@pytest.fixture(scope="module")
def worker(model: Path) -> Any:
    single_rank_environment()
    return make_worker(compose(model))


def inputs_of(rows: list[Row], config: SDSearchConfig) -> Any:
    return build_teacher_inputs(
        [row.rollout for row in rows],
        config,
        TOKENIZER,
        lambda messages: encode_messages(messages, TOKENIZER),
        seed=1,
        flipped=True,
    )


def batch(rows: list[Row], config: SDSearchConfig, **options: Any) -> Any:
    return batch_of(rows, inputs_of(rows, config), 0.3, traced=[0], **options)


def test_the_metrics_are_the_probes(worker: Any, model: Path, rows: list[Row]) -> None:
    worker.loss_fn.config = settings()
    _, metrics = gradients(worker, batch(rows[:8], settings(), **{MEASURE_LABELS: True}))
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    groups = [[row.rollout for row in rows[:4]], [row.rollout for row in rows[4:8]]]
    scored = [one for group in score_groups(policy, TOKENIZER, groups, ProbeConfig()) for one in group]
    sensitivity, share = labels_of(scored)
    assert metrics["sd_search/label_sensitivity"] == [pytest.approx(sensitivity, abs=1e-5)]
    assert metrics["sd_search/copy_share"] == [pytest.approx(share, rel=1e-4)]
    assert "sd_search/copy_share" not in gradients(worker, batch(rows[:8], settings()))[1]


def test_the_update_is_bitwise_the_same_with_and_without(model: Path, rows: list[Row]) -> None:
    single_rank_environment()
    found = []
    for measure in (False, True):
        worker = make_worker(compose(model))
        worker.loss_fn.config = settings()
        worker.update_actor(batch(rows, settings(), **OPTIONS, **{MEASURE_LABELS: measure}))
        found.append((weights(worker), worker.take_credits()))
    assert all(torch.equal(found[0][0][name], value) for name, value in found[1][0].items())
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("top_k", [None, 20])
def test_the_contrastive_target_is_the_student_tilted_by_what_the_labels_say(
    worker: Any, model: Path, rows: list[Row], top_k: int | None
) -> None:
    config = settings(target="contrast", top_k=top_k)
    worker.loss_fn.config = config
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    values = []
    for row, item in zip(rows[:8], inputs_of(rows[:8], config), strict=True):
        if not item.rows:
            continue
        (true,), (flipped,) = item.rows, item.flipped
        student = torch.tensor([row.rollout.prompt.token_ids + row.rollout.response_ids])
        with torch.no_grad():
            z = policy(student).logits[0][true.student_positions]
            z_true = policy(torch.tensor([true.input_ids])).logits[0][true.teacher_positions]
            z_flipped = policy(torch.tensor([flipped.input_ids])).logits[0][flipped.teacher_positions]
        values.append(divergence(z, z + z_true - z_flipped, top_k=top_k).mean())
    _, metrics = gradients(worker, batch(rows[:8], config))
    assert sum(metrics["sd_search/loss"]) == pytest.approx(float(torch.stack(values).mean()), rel=1e-4)
    assert sum(metrics["sd_search/loss"]) > 1e-6
    # Whatever the student is pulled to, these speak of the teacher.
    worker.loss_fn.config = settings(target="uniform" if top_k is None else "teacher", top_k=top_k)
    _, others = gradients(worker, batch(rows[:8], worker.loss_fn.config))
    for name in ("teacher_entropy", "teacher_student_top1"):
        assert metrics[f"sd_search/{name}"] == pytest.approx(others[f"sd_search/{name}"], rel=1e-5), name


def test_without_labels_to_read_the_contrastive_target_is_the_student() -> None:
    same = teacher_targets(torch.randn(3, 50), settings(top_k=None))
    tilt = contrast(same, same).logits
    assert tilt is not None
    assert not tilt.any()
