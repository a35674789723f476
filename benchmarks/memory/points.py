"""The counts of ``benchmarks.memory.counts`` against what torch holds.

    python -m benchmarks.memory.points       # prints counted / found, writes benchmarks/memory/points.csv

Engine points are small models that are trained for one step. Points of the real shapes are forwards under torch's
FakeTensorMode, which computes no values and allocates nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.masking_utils import AttentionMaskInterface

from benchmarks.arguments import command_parser
from benchmarks.machine import device_name
from benchmarks.memory import counts
from benchmarks.memory.counts import Plan
from benchmarks.models import config_of, save_model
from benchmarks.shapes import SHAPES, Shape
from benchmarks.table import write_rows

CSV = Path(__file__).resolve().with_suffix(".csv")
ATTENTION = "memory_points"
KEPT = {True: "kept with checkpointing", False: "kept without checkpointing"}


@dataclass(frozen=True)
class Point:
    """A counted and a found number of bytes."""

    where: str
    shape: str
    dtype: str
    part: str
    counted: float
    found: float

    @property
    def ratio(self) -> float:
        """Counted over found; 1 where there is nothing of either."""
        return self.counted / self.found if self.found else float(self.counted == 0)


ENGINE_SHAPES = {
    "wide, tied": Shape(2, 256, 1024, 4, 2, 2048, True, 64),
    "deep, untied": Shape(6, 128, 384, 4, 1, 1024, False, 32),
    "large vocabulary, tied": Shape(2, 128, 512, 2, 2, 16384, True, 64),
    "Qwen3, untied": Shape(4, 192, 512, 4, 2, 2048, False, 64, biases=False),
}


class _Attention(torch.autograd.Function):
    """Keeps what a flash-attention kernel keeps: queries, keys, values, its output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
        ctx.save_for_backward(query, key, value, out)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors[:3])
        with torch.enable_grad():
            out = F.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=ctx.scale, enable_gqa=True
            )
        return (*torch.autograd.grad(out, (query, key, value), gradient), None)


def install_attention() -> None:
    """Register the attention under :data:`ATTENTION`; rows are causal and have no padding."""

    def forward(
        _: Any, query: Tensor, key: Tensor, value: Tensor, *__: Any, scaling: float, **___: Any
    ) -> Any:
        return _Attention.apply(query, key, value, scaling).transpose(1, 2).contiguous(), None

    AttentionInterface.register(ATTENTION, forward)
    AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)


@contextmanager
def kept_by(module: Any) -> Iterator[list[float]]:
    """Yield the bytes that autograd keeps of every forward of ``module``, parameters left out; one number a forward."""
    found: list[float] = []
    stack: list[Any] = []

    def start(*_: Any) -> None:
        storages: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            whole = tensor if tensor._base is None else tensor._base
            if not (whole.is_leaf and whole.requires_grad):
                storages[tensor.untyped_storage()._cdata] = tensor
            return tensor

        hooks = saved_tensors_hooks(pack, lambda tensor: tensor)
        hooks.__enter__()
        stack.append((hooks, storages))

    def stop(*_: Any) -> None:
        hooks, storages = stack.pop()
        hooks.__exit__(None, None, None)
        if torch.is_grad_enabled():
            found.append(float(sum(tensor.untyped_storage().nbytes() for tensor in storages.values())))

    handles = [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def real_shape(name: str, tokens: int, checkpointing: bool) -> Point:
    """Measure the bytes that autograd keeps of the decoder's forward in bf16, without data."""
    install_attention()
    shape = SHAPES[name]
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(
            config_of(shape), attn_implementation=ATTENTION, dtype=torch.bfloat16
        )
        assert sum(p.numel() for p in model.parameters()) == shape.parameters
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        with kept_by(model.model) as found, torch.autocast("cpu", torch.bfloat16):
            model.model(
                input_ids=torch.zeros(1, tokens, dtype=torch.long),
                position_ids=torch.arange(tokens)[None],
                use_cache=False,
            )
    return Point(
        "fake tensors", name, "bf16", KEPT[checkpointing], kept(shape, tokens, checkpointing, 2), found[0]
    )


def kept(shape: Shape, tokens: int, checkpointing: bool, compute: int) -> float:
    """Return the counted bytes that the decoder's forward keeps: its layers, and the last norm less its output."""
    last = compute * tokens * shape.hidden * (3 if compute == 2 else 2)
    if checkpointing:
        return counts.checkpoints(shape, tokens, compute) + last
    return shape.layers * counts.layer_activations(shape, tokens, compute) + last


TOKENS = 512
"""Of the rollout of an engine point."""


def engine(name: str, dtype: str, rank: int, checkpointing: bool) -> list[Point]:
    """Run one update of verl's FSDP2 actor on one rollout; measure stored and kept bytes."""
    from benchmarks.cost import actor, trajectories
    from sd_search_verl.verl_adapter.actor.worker import SDActorRolloutRefWorker

    install_attention()
    shape = ENGINE_SHAPES[name]
    stored = 4 if dtype == "fp32" else 2
    setting = actor.Setting("cpu", dtype, ATTENTION, checkpointing=checkpointing, micro_batch=1)
    overrides = [f"actor_rollout_ref.model.lora_rank={rank}"] if rank else []
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(shape, Path(folder))
        actor.single_rank()
        worker = SDActorRolloutRefWorker(
            config=actor.configuration(setting, model, 1, overrides), role="actor"
        )
        worker.init_model()
    lengths = trajectories.Lengths(64, TOKENS - 64, [])
    batch = actor.batch_of(trajectories.rollouts([[lengths]], shape.vocab, seed=0), 0.0)
    batch["old_log_probs"] = batch["ref_log_prob"] = batch["advantages"] * 0
    held: dict[str, float] = {}
    fsdp = worker.actor.engine
    step = fsdp.optimizer_step

    def record() -> Any:
        held["gradients"] = _bytes(p.grad for p in fsdp.module.parameters() if p.grad is not None)
        result = step()
        held["moments"] = _bytes(
            value for state in fsdp.optimizer.state.values() for key, value in state.items() if key != "step"
        )
        return result

    fsdp.optimizer_step = record
    base = fsdp.module.base_model.model if rank else fsdp.module
    with kept_by(base.model) as found:
        worker.update_actor(batch)
    plan = Plan(1, rank, stored, TOKENS)
    counted = {
        "weights": (counts.weights(shape, plan), _bytes(fsdp.module.parameters())),
        "gradients": (counts.gradients(shape, plan), held["gradients"]),
        "moments": (counts.moments(shape, plan), held["moments"]),
    }
    if not rank:  # frozen norms keep less, so the count is an upper bound for adapters
        counted[KEPT[checkpointing]] = (kept(shape, TOKENS, checkpointing, stored), found[-1])
    kind = f"{dtype}, LoRA {rank}" if rank else dtype
    return [Point("engine", name, kind, part, *values) for part, values in counted.items()]


def _bytes(tensors: Any) -> float:
    """Return the bytes of the tensors' storages, each once: gradients of one FSDP unit share theirs."""
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in local)}
    return float(sum(storages.values()))


def points() -> Iterator[Point]:
    """Return all points, the engine's first."""
    for name in ENGINE_SHAPES:
        yield from engine(name, "fp32", 0, checkpointing=True)
        yield from engine(name, "bf16", 0, checkpointing=False)
        yield from engine(name, "fp32", 8, checkpointing=True)
    for name in SHAPES:
        for checkpointing in (True, False):
            yield real_shape(name, 16384 if checkpointing else 2048, checkpointing)


def main() -> None:
    """Compare, print, and replace the table."""
    command_parser(__doc__).parse_args()
    rows = []
    for point in points():
        row = {
            "device": device_name("cpu"),
            "where": point.where,
            "shape": point.shape,
            "dtype": point.dtype,
            "part": point.part,
            "counted_bytes": int(point.counted),
            "found_bytes": int(point.found),
            "ratio": f"{point.ratio:.4f}",
        }
        print(*list(row.values())[1:], sep="  ", flush=True)
        rows.append(row)
    write_rows(CSV, rows)


if __name__ == "__main__":
    main()
