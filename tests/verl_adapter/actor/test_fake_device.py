"""The whole update with its model on an accelerator that is faked: every tensor must be on the right side."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable
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
from tensordict import TensorDict
from torch import Tensor
from torch.utils._pytree import tree_map
from verl.utils import transferqueue_utils
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine.utils import prepare_micro_batches
from verl.workers.engine_workers import TrainingWorker

from sd_search_verl.distill.support import TeacherTargets
from sd_search_verl.verl_adapter.actor import loss as loss_module
from sd_search_verl.verl_adapter.actor import teacher_pass
from sd_search_verl.verl_adapter.actor import worker as worker_module
from sd_search_verl.verl_adapter.fields import MEASURE_GRAD_SHARE

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
        ({}, PACKED, {MEASURE_GRAD_SHARE: True}),
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
        assert all(
            isinstance(parameter, DeviceTensor) for parameter in worker.actor.engine.module.parameters()
        )
        found, others, theirs = update(worker, rows, changes, **options)
    # Not to the bit: torch chooses another kernel for attention by device.
    assert relative_difference(found, expected) < 1e-6
    assert credits.keys() == theirs.keys() != set()
    for trace, values in credits.items():
        assert torch.tensor(theirs[trace]) == pytest.approx(torch.tensor(values), abs=1e-5)
    ours = {name for name in metrics if name.startswith("sd_search/") and name != "sd_search/teacher_s"}
    assert len(ours) == (8 if options.get(MEASURE_GRAD_SHARE) else 7)
    for name in ours:
        assert others[name] == pytest.approx(metrics[name], rel=1e-5, abs=2e-6)


def on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its result on the host."""

    def wrong(*args: Any, **options: Any) -> Any:
        result = function(*args, **options)
        if isinstance(result, TeacherTargets):
            return result.map(Tensor.cpu)
        return tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, result)

    return wrong


@pytest.mark.parametrize(
    ("module", "name", "changes"),
    [
        (worker_module, "get_device_id", {}),  # where the credit record lies
        (worker_module, "run_teacher_pass", {}),
        (loss_module, "positions_in_shard", {}),
        (loss_module, "select_rows", {}),
        (loss_module, "teacher_targets", {"target": "uniform"}),
        (loss_module, "_scatter", {}),
        (loss_module, "sd_loss", {}),
        (teacher_pass, "scaled", {}),
        (teacher_pass, "get_device_id", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tensor_on_the_wrong_side_fails(
    model: Path,
    rows: list[Row],
    module: Any,
    name: str,
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed_attention.install()
    original = getattr(module, name)
    wrong = on_host(original) if name != "get_device_id" else lambda: torch.device("cpu")
    with device_worker(model, PACKED) as (worker, _):
        monkeypatch.setattr(module, name, wrong)
        with pytest.raises((RuntimeError, AssertionError), match="same device"):
            update(worker, rows, changes, temperature=0.7)


def test_verl_moves_micro_batches_and_nothing_before(
    model: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {"mini-batch": set(), "before": set(), "after": set()}

    def record(function: Any, place: str) -> Any:
        def recorded(self: Any, *args: Any, **options: Any) -> Any:
            data = next(value for value in (*args, *options.values()) if isinstance(value, TensorDict))
            seen[place] |= {value.device.type for value in data.values() if isinstance(value, Tensor)}
            return function(self, *args, **options)

        return recorded

    with device_worker(model) as (worker, _):
        monkeypatch.setattr(TrainingWorker, "train_batch", record(TrainingWorker.train_batch, "mini-batch"))
        for name, place in (("forward_step", "before"), ("prepare_model_outputs", "after")):
            monkeypatch.setattr(
                FSDPEngineWithLMHead, name, record(getattr(FSDPEngineWithLMHead, name), place)
            )
        update(worker, rows, {})
    assert seen == {"mini-batch": {"cpu"}, "before": {"cpu"}, "after": {"meta"}}


@pytest.mark.parametrize(
    "function",
    [
        transferqueue_utils._async_meta_to_realdata,
        TrainingWorker.train_mini_batch,
        TrainingWorker.train_batch,
        prepare_micro_batches,
    ],
    ids=lambda function: function.__name__,
)
def test_verl_leaves_mini_batches_on_the_host(function: Any) -> None:
    source = inspect.getsource(inspect.unwrap(function))
    assert ".cuda(" not in source
    assert not re.search(r"\.to\([^)]*device", source)


def test_a_micro_batch_makes_the_host_wait_twice(model: Path, rows: list[Row]) -> None:
    """For the number of its scored tokens, and for the metrics; whatever verl waits for comes on top."""

    def waits(alpha: float, size: int) -> Counter[str]:
        config = settings()
        inputs = teacher_inputs(rows, config, byte_tokenizer())
        batch = batch_of(rows, inputs, alpha, traced=TRACED, micro_batch_size_per_gpu=size)
        with device_worker(model) as (worker, device):
            engine = worker.actor.engine
            engine.optimizer_step = lambda: 0.0
            worker.update_actor(batch)
            return device.waits

    def a_micro_batch(alpha: float) -> Counter[str]:
        one, two = waits(alpha, 8), waits(alpha, 4)
        return Counter({kind: two[kind] - one[kind] for kind in one | two})

    ours, stock = a_micro_batch(0.7), a_micro_batch(0.0)
    assert {kind: ours[kind] - stock[kind] for kind in ours if ours[kind] != stock[kind]} == {
        "nonzero": 1,
        "copy to the host": 1,
    }
