"""L_SD of tool calls in verl's real FSDP2 engine, against plain PyTorch."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.agreement import reference, relative_difference, sd_gradients
from support.chat_templates import TEMPLATES
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
from sd_search_verl.protocol.families import FAMILIES


@cache
def tokenizer(family: str) -> Any:
    """Bytes and the family's template; its control tokens are text here."""
    coder = byte_tokenizer()
    coder.chat_template = TEMPLATES[family]
    return coder


@cache
def recorded(family: str) -> list[Row]:
    found = recorded_rows(tokenizer(family), groups=2, name=f"tool_call:{family}")
    assert any(len(row.rollout.argument_spans) > len(row.rollout.spans) > 0 for row in found)
    return found


def in_calls(family: str, rows: list[Row], config: SDSearchConfig) -> list[TeacherInputs]:
    return teacher_inputs(rows, config, tokenizer(family), f"tool_call:{family}")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in FAMILIES),
        *((family, {"positions": "tool_arguments"}) for family in FAMILIES),
        ("hermes", {"hindsight": {"placement": "system"}}),
        ("hermes", {"divergence": "forward_kl"}),
    ],
    ids=str,
)
def test_gradient_equals_the_reference(worker: Any, model: Path, family: str, changes: dict) -> None:
    config, rows, teacher = settings(**changes), recorded(family), partial(in_calls, family)
    ours, metrics = sd_gradients(worker, rows, config, teacher=teacher)
    theirs, loss = reference(model, rows, config, teacher=teacher)
    assert loss > 0
    assert float(metrics["sd_search/loss"][0]) == pytest.approx(loss, rel=1e-5, abs=2e-7)
    assert relative_difference(ours, theirs) < 1e-5


def test_alpha_0_is_verls_own_update_bit_by_bit(worker: Any, model: Path) -> None:
    rows = recorded("hermes")
    stock = make_worker(compose(model), stock=True)
    plain, _ = gradients(stock, batch_of(rows, None, 0.0))
    ours, _ = gradients(worker, batch_of(rows, in_calls("hermes", rows, settings()), 0.0))
    assert plain.keys() == ours.keys()
    assert all(torch.equal(plain[name], ours[name]) for name in plain)
