"""Credit of query tokens: from verl's engine back to the driver, against plain PyTorch on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.agreement import naive_credit
from support.engine import (
    batch_of,
    recorded_rows,
    settings,
    teacher_inputs,
    weights,
)
from support.tiny import byte_tokenizer
from transformers import AutoModelForCausalLM

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.verl_adapter.actor.credit import by_span

TRACED = [5, 0, 3, 6]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"top_k": None, "divergence": "forward_kl"},
        {"support": "union", "positions": "response"},
        {"hindsight": {"content": "current_documents"}},
    ],
    ids=str,
)
def test_credit_is_teacher_over_student(worker: Any, model: Path, changes: dict[str, Any]) -> None:
    config: SDSearchConfig = settings(**changes)
    worker.loss_fn.config = config
    rows = recorded_rows(byte_tokenizer())[:8]
    inputs = teacher_inputs(rows, config, byte_tokenizer())
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    network.load_state_dict(weights(worker), strict=False)
    # Two mini-batches in micro-batches of 2: rows of one mini-batch must not be taken for the other's.
    batch = batch_of(rows, inputs, 0.0001, traced=TRACED, mini_batch_size=4, micro_batch_size_per_gpu=2)
    worker.actor.engine.optimizer_step = lambda: 0.0
    try:
        worker.update_actor(batch)
    finally:
        del worker.actor.engine.optimizer_step
    found = worker.take_credits()
    assert set(found) == {place for place in TRACED if inputs[place].rows}
    tokens = 0
    for place, values in found.items():
        shown = by_span(rows[place].rollout, inputs[place], values)
        expected = naive_credit(network, rows[place], inputs[place])
        for span, theirs, divergences in zip(shown.credit, expected, shown.divergence, strict=True):
            assert span == pytest.approx(theirs, abs=2e-5)
            assert all(value is not None and value >= 0 for value in divergences)
            tokens += len(span)
    assert tokens > 20


def test_nothing_is_kept_where_nothing_is_traced(worker: Any) -> None:
    config = settings()
    worker.loss_fn.config = config
    rows = recorded_rows(byte_tokenizer())[:4]
    worker.update_actor(batch_of(rows, teacher_inputs(rows, config, byte_tokenizer()), 0.1))
    assert worker.take_credits() == {}
