"""The whole update with its model on an accelerator that is faked: every tensor must be on the right side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import packed_attention
from support.agreement import relative_difference
from support.device_worker import device_worker, unsharded_worker
from support.engine import Row, batch_of, gradients, recorded_rows, settings, teacher_inputs
from support.fake_device import DeviceTensor
from support.ranks import PACKED
from support.tiny import byte_tokenizer

pytestmark = pytest.mark.fake_device

TRACED = [5, 0, 3, 6]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return recorded_rows(byte_tokenizer(), groups=2, size=4)


def update(worker: Any, rows: list[Row], changes: dict[str, Any], **options: Any) -> tuple[Any, Any, Any]:
    """Gradients, metrics and credits of one update of two micro-batches; the batch is on the host, as verl has it."""
    config = settings(**changes)
    worker.loss_fn.config = config
    inputs = teacher_inputs(rows, config, byte_tokenizer())
    found, metrics = gradients(worker, batch_of(rows, inputs, 0.7, traced=TRACED, **options))
    return found, metrics, worker.take_credits()


@pytest.mark.parametrize(
    ("changes", "overrides", "options"),
    [
        ({}, [], {}),
        ({}, PACKED, {}),
        ({}, PACKED, {"use_dynamic_bsz": True, "max_token_len_per_gpu": 600}),
        ({}, [], {"temperature": 0.7, "calculate_entropy": True}),
        ({"support": "union"}, PACKED, {}),
        ({"top_k": None, "divergence": "forward_kl"}, [], {}),
        ({"target": "uniform"}, PACKED, {}),
    ],
    ids=str,
)
def test_an_update_on_the_device_is_that_of_the_cpu(
    model: Path, rows: list[Row], changes: dict[str, Any], overrides: list[str], options: dict[str, Any]
) -> None:
    packed_attention.install()
    expected, metrics, credits = update(unsharded_worker(model, overrides), rows, changes, **options)
    with device_worker(model, overrides) as (worker, _):
        found, others, theirs = update(worker, rows, changes, **options)
    assert all(isinstance(gradient, DeviceTensor) for gradient in found.values())
    # Not to the bit: torch chooses another kernel for attention by device.
    assert relative_difference({name: grad.host for name, grad in found.items()}, expected) < 1e-6
    assert credits.keys() == theirs.keys() != set()
    for trace, values in credits.items():
        assert torch.tensor(theirs[trace]) == pytest.approx(torch.tensor(values), abs=1e-5)
    ours = {name for name in metrics if name.startswith("sd_search/") and name != "sd_search/teacher_s"}
    assert len(ours) == 7
    for name in ours:
        assert others[name] == pytest.approx(metrics[name], rel=1e-5, abs=2e-6)
