"""The ways verl can run an actor, each against plain PyTorch: sharding, packing, offload, adapters, world sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import packed_attention
from support.agreement import ALPHA, reference, relative_difference, sd_gradients
from support.engine import (
    Row,
    batch_of,
    compose,
    full,
    make_worker,
    recorded_rows,
    settings,
    single_rank_environment,
    teacher_inputs,
)
from support.ranks import PACKED, launch
from support.tiny import byte_tokenizer, save_tiny_model

FSDP = "actor_rollout_ref.actor.fsdp_config"
DYNAMIC = {"use_dynamic_bsz": True, "max_token_len_per_gpu": 600}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return recorded_rows(byte_tokenizer(), groups=2, size=4)


@pytest.fixture(scope="module")
def expected(model: Path, rows: list[Row]) -> tuple[dict[str, torch.Tensor], float]:
    return reference(model, rows, settings())


def worker_with(model: Path, overrides: list[str]) -> Any:
    single_rank_environment()
    packed_attention.install()
    return make_worker(compose(model, overrides))


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        ([], DYNAMIC),
        (PACKED, {}),
        (PACKED, DYNAMIC),
        (["actor_rollout_ref.model.enable_gradient_checkpointing=True"], {}),
        ([f"{FSDP}.offload_policy=True"], {}),
        ([f"{FSDP}.param_offload=True", f"{FSDP}.optimizer_offload=True"], {}),
        ([], {"calculate_entropy": True}),
    ],
    ids=str,
)
def test_one_rank(
    model: Path, rows: list[Row], expected: Any, overrides: list[str], options: dict[str, Any]
) -> None:
    ours, metrics = sd_gradients(worker_with(model, overrides), rows, settings(), **options)
    assert float(metrics["sd_search/loss"][0]) == pytest.approx(expected[1], rel=1e-5)
    assert relative_difference(ours, expected[0]) < 1e-5


@pytest.mark.parametrize("overrides", [[], PACKED], ids=str)
def test_temperature(model: Path, rows: list[Row], overrides: list[str]) -> None:
    theirs, loss = reference(model, rows, settings(), temperature=0.7)
    ours, metrics = sd_gradients(worker_with(model, overrides), rows, settings(), temperature=0.7)
    assert float(metrics["sd_search/loss"][0]) == pytest.approx(loss, rel=1e-5)
    assert relative_difference(ours, theirs) < 1e-5


def test_bf16_is_near_fp32(model: Path, rows: list[Row], expected: Any) -> None:
    worker = worker_with(model, [f"{FSDP}.mixed_precision.param_dtype=bf16"])
    ours, metrics = sd_gradients(worker, rows, settings())
    assert float(metrics["sd_search/loss"][0]) == pytest.approx(expected[1], rel=0.02)
    assert relative_difference(ours, expected[0]) < 0.05


def test_adapters(model: Path, rows: list[Row], expected: Any) -> None:
    """B starts at 0: its gradient is that of the whole weight, seen through A; A has none."""
    worker = worker_with(
        model,
        ["actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.lora_alpha=8"],
    )
    engine = worker.actor.engine
    found: dict[str, torch.Tensor] = {}

    def record() -> float:
        for name, parameter in engine.module.named_parameters():
            found[name] = full(parameter if parameter.grad is None else parameter.grad).detach().clone()
        return 0.0

    engine.optimizer_step = record
    down = {
        name: full(p).detach().clone() for name, p in engine.module.named_parameters() if "lora_A" in name
    }
    still = [Row(row.rollout, 0.0, row.old_log_probs) for row in rows]
    worker.update_actor(batch_of(still, teacher_inputs(rows, settings(), byte_tokenizer()), ALPHA))
    assert len(down) == 14
    ours, theirs = {}, {}
    for name, a in down.items():
        weight = name.removeprefix("base_model.model.").replace(".lora_A.default", "")
        ours[name] = found[name.replace("lora_A", "lora_B")]
        theirs[name] = 2.0 * expected[0][weight] @ a.T
        assert float(found[name].abs().max()) == 0
    assert relative_difference(ours, theirs) < 1e-5


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("world_size", "cases"), [(2, ["ulysses2"]), (4, ["fsdp2", "ulysses2"])])
def test_several_ranks(model: Path, tmp_path: Path, expected: Any, world_size: int, cases: list[str]) -> None:
    for ranks in launch(world_size, cases, model, tmp_path, timeout=250).values():
        for rank in ranks:
            assert relative_difference(rank["gradients"], expected[0]) < 1e-5
        assert float(ranks[0]["metrics"]["sd_search/loss"][0]) == pytest.approx(expected[1], rel=1e-5)
