"""L_SD of tool calls in verl's real FSDP2 engine, against plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.agreement import reference, relative_difference, sd_gradients
from support.chat_templates import HERMES
from support.engine import (
    Row,
    batch_of,
    compose,
    gradients,
    make_worker,
    recorded_rows,
    settings,
    teacher_inputs,
)
from support.tiny import byte_tokenizer

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs

NAME = "tool_call:hermes"
CODER = byte_tokenizer()
CODER.chat_template = HERMES


def in_calls(rows: list[Row], config: SDSearchConfig) -> list[TeacherInputs]:
    return teacher_inputs(rows, config, CODER, NAME)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    found = recorded_rows(CODER, groups=2, name=NAME)
    assert any(len(row.rollout.argument_spans) > len(row.rollout.spans) > 0 for row in found)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "tool_arguments"},
        {"hindsight": {"placement": "system"}},
        {"divergence": "forward_kl"},
    ],
    ids=str,
)
def test_gradient_equals_the_reference(worker: Any, model: Path, rows: list[Row], changes: dict) -> None:
    config = settings(**changes)
    ours, metrics = sd_gradients(worker, rows, config, teacher=in_calls)
    theirs, loss = reference(model, rows, config, teacher=in_calls)
    assert loss > 0
    assert float(metrics["sd_search/loss"][0]) == pytest.approx(loss, rel=1e-5, abs=2e-7)
    assert relative_difference(ours, theirs) < 1e-5


def test_alpha_0_is_verls_own_update_bit_by_bit(worker: Any, model: Path, rows: list[Row]) -> None:
    stock = make_worker(compose(model), stock=True)
    plain, _ = gradients(stock, batch_of(rows, None, 0.0))
    ours, _ = gradients(worker, batch_of(rows, in_calls(rows, settings()), 0.0))
    assert plain.keys() == ours.keys()
    assert all(torch.equal(plain[name], ours[name]) for name in plain)
