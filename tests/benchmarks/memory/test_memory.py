"""The memory counts against torch: verl's engine on small models, and the real shapes without data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.engine import (
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
from torch.distributed._tools.mem_tracker import MemTracker

from benchmarks.memory import __main__ as memory
from benchmarks.memory import counts, points
from benchmarks.memory.counts import GB, Plan
from benchmarks.shapes import SHAPES

ACTOR = "actor_rollout_ref.actor"
REPO = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", ["Qwen2.5-3B", "Qwen2.5-7B", "Qwen3-8B"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_what_autograd_keeps_of_the_real_shapes(name: str, checkpointing: bool) -> None:
    point = points.real_shape(name, 4096, checkpointing)
    assert point.found > 0
    assert point.ratio == pytest.approx(1, abs=0.01)


def test_parameters_are_those_of_the_released_models() -> None:
    """As their model cards say, in billions."""
    released = {"Qwen2.5-0.5B": 0.49, "Qwen2.5-1.5B": 1.54, "Qwen2.5-3B": 3.09, "Qwen2.5-7B": 7.62}
    released |= {"Qwen3-1.7B": 1.7, "Qwen3-4B": 4.0, "Qwen3-8B": 8.2}
    for name, billions in released.items():
        assert SHAPES[name].parameters / 1e9 == pytest.approx(billions, abs=0.05), name


@pytest.mark.parametrize("name", points.ENGINE_SHAPES)
@pytest.mark.parametrize(("dtype", "rank", "checkpointing"), [("fp32", 0, True), ("bf16", 0, False)])
def test_the_engine_holds_what_is_counted(name: str, dtype: str, rank: int, checkpointing: bool) -> None:
    single_rank_environment()
    found = {point.part: point for point in points.engine(name, dtype, rank, checkpointing)}
    for part in ("weights", "gradients", "moments"):
        assert found.pop(part).ratio == pytest.approx(1, abs=0.01), part
    (kept,) = found.values()
    assert kept.ratio == pytest.approx(1, abs=0.05)


def test_adapters_hold_what_is_counted() -> None:
    single_rank_environment()
    found = {point.part: point for point in points.engine("wide, tied", "fp32", 8, True)}
    assert found.keys() == {"weights", "gradients", "moments"}
    assert all(point.ratio == pytest.approx(1, abs=0.01) for point in found.values())


@pytest.mark.parametrize(("way", "sizes"), [("foreach", 5), ("fused", 4)])
def test_adamw_on_a_gpu_needs_a_gradient_more_while_it_steps(way: str, sizes: int) -> None:
    """Of its three ways torch takes ``foreach`` there; on a CPU it must be asked for."""
    weight = torch.nn.Linear(512, 512, bias=False)
    optimizer = torch.optim.AdamW(weight.parameters(), **{way: True})
    size = 512 * 512 * 4

    def step() -> None:
        weight.weight.grad = torch.ones_like(weight.weight)
        optimizer.step()

    step()
    tracker = MemTracker()
    tracker.track_external(weight, optimizer)
    with tracker:
        optimizer.step()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    assert peak["Total"] == pytest.approx(sizes * size, rel=0.01)


def test_the_parts_of_a_step_add_up() -> None:
    """3B in fp32 on one card: 16 bytes a parameter, and 4 more in the optimizer's step."""
    shape, plan = SHAPES["Qwen2.5-3B"], Plan(1, tokens=8192)
    parts = counts.update(shape, plan)
    assert sum(parts[name] for name in ("weights", "gradients", "moments")) == 16 * shape.parameters
    assert sum(parts.values()) == 20 * shape.parameters
    # On eight cards the logits weigh more than the step.
    parts = counts.update(shape, Plan(8))
    assert parts["logits"] == 2 * 16384 * 151936
    assert "optimizer's temporary" not in parts


@pytest.mark.parametrize("rank", [0, memory.RANK])
def test_more_or_larger_cards_never_need_a_slower_option(rank: int) -> None:
    order = [*memory.OPTIONS, "no"]

    def place(shape: Any, card: int, cards: int) -> int:
        found = memory.first_fit(shape, card * GB, cards, rank)
        return order.index(found[0] if found else "no")

    for shape in SHAPES.values():
        for smaller, larger in zip(memory.CARDS, memory.CARDS[1:], strict=False):
            assert all(place(shape, larger, n) <= place(shape, smaller, n) for n in memory.COUNTS)
        for card in memory.CARDS:
            places = [place(shape, card, n) for n in memory.COUNTS]
            assert places == sorted(places, reverse=True)


def test_the_page_shows_the_current_table() -> None:
    page = (REPO / "docs" / "memory.md").read_text()
    assert memory.table() in page, "run python -m benchmarks.memory"


def test_bf16_weights_lose_most_of_an_update_at_the_papers_rate(tmp_path: Path) -> None:
    """What halves the memory: a step of 1e-6 is below half of the last bit of weights above some 5e-4."""
    single_rank_environment()
    model = save_tiny_model(tmp_path)
    rows = recorded_rows(byte_tokenizer())[:8]
    moved = {}
    for dtype in ("fp32", "bf16"):
        overrides = [f"{ACTOR}.fsdp_config.model_dtype={dtype}", f"{ACTOR}.optim.lr=1e-6"]
        worker = make_worker(compose(model, overrides))
        before = weights(worker)
        worker.update_actor(batch_of(rows, teacher_inputs(rows, settings(), byte_tokenizer()), 0.7))
        after = weights(worker)
        changed = sum(int((before[name] != after[name]).sum()) for name in before)
        moved[dtype] = changed / sum(value.numel() for value in before.values())
    assert moved["fp32"] > 0.5
    assert moved["bf16"] < 0.1 * moved["fp32"]


def test_the_host_holds_what_the_cards_do_not() -> None:
    shape = SHAPES["Qwen2.5-7B"]
    bytes_each = {"+": 2, "o": 2 + 12, "p": 2 + 16}  # the reference, weights and moments, gradients too
    for option, each in bytes_each.items():
        plan = dict(memory.plans(8, 0))[option]
        assert counts.host(shape, plan, 8) == pytest.approx(max(each, 4) * shape.parameters)
    # A tied model is read by every rank.
    three = SHAPES["Qwen2.5-3B"]
    assert counts.host(three, Plan(8), 8) == 8 * 4 * three.parameters
