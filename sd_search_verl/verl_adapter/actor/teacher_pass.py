"""Run the teacher: one forward without gradient over the teacher's rows, with logits at scored positions only.

Its cost is the layers over the rows' tokens. Rows end at their last scored token and are packed as verl packs (sorted
by length where it pads); the head computes logits at scored positions only, and so micro-batches may be larger.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.workers.engine.utils import prepare_micro_batches

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.support import TeacherTargets, teacher_targets
from sd_search_verl.verl_adapter.actor.packed import (
    SequenceShard,
    attention_bounds,
    policy_in,
    positions_in_shard,
)
from sd_search_verl.verl_adapter.fields import NO_SLOT, SLOTS, TeacherMiniBatch, by_slot, nested

MASKED_ATTENTION = ("eager", "sdpa")
"""Attention that makes a mask over all pairs of a micro-batch's packed tokens."""


def run_teacher_pass(
    engine: Any, batch: TeacherMiniBatch, settings: dict[str, Any], group: Any, config: SDSearchConfig
) -> TeacherTargets:
    """Return the teacher's targets at all scored positions, in slot order.

    Every rank runs every forward, also without scored tokens of its own (FSDP): ranks are padded to equally many rows.

    Args:
        engine: verl's FSDP engine, in train mode; left in train mode.
        settings: non-tensor options of the forward (temperature, and micro-batch size or token budget of verl's
            log-prob pass, ...).
        group: data-parallel process group.
    """
    data = _teacher_batch(batch, settings, group, engine.module)
    tu.assign_non_tensor(data, sp_size=engine.ulysses_sequence_parallel_size)
    micro_batches, _ = prepare_micro_batches(data, dp_group=group, same_micro_num_in_dp=True)
    targets: TeacherTargets | None = None
    positions = by_slot(batch.positions)
    engine.module.eval()  # dropout off, and verl's activation offload acts in train mode only
    try:
        with torch.no_grad(), torch.profiler.record_function("sd_search/teacher"):
            for micro_batch in micro_batches:
                slots, part = _forward(engine, micro_batch, positions, settings, config)
                if targets is None:
                    targets = part.map(lambda values: values.new_zeros(len(positions) - 1, *values.shape[1:]))
                for values, rows in zip(targets.tensors(), part.tensors(), strict=True):
                    values.index_copy_(0, slots, rows)
    finally:
        engine.module.train()
    assert targets is not None  # there is at least one micro-batch, of fill rows if need be
    if engine.use_ulysses_sp:
        # Each position was scored by one rank of the group; the others hold zeros there.
        for values in targets.tensors():
            dist.all_reduce(values, group=engine.ulysses_parallel_group)
    return targets


def _forward(
    engine: Any, micro_batch: TensorDict, positions: Tensor, settings: dict[str, Any], config: SDSearchConfig
) -> tuple[Tensor, TeacherTargets]:
    # The micro-batch is still on the host, so nothing here waits for the device.
    tokens = micro_batch["input_ids"].values()
    shard = SequenceShard.of(len(tokens))
    index, slots = positions_in_shard(micro_batch, positions, shard)
    following = tokens[index + 1]
    packed = settings["use_remove_padding"]
    rows = index - shard.start if packed else _padded_index(micro_batch["input_ids"].offsets(), index)
    device, offsets = get_device_id(), micro_batch["input_ids"].offsets()
    rows, slots, following = (values.to(device, non_blocking=True) for values in (rows, slots, following))
    inputs, _ = engine.prepare_model_inputs(micro_batch=micro_batch.to(device))
    if packed:
        inputs |= attention_bounds(engine.module, offsets, inputs["input_ids"].shape[-1], device)
    with _autocast(engine), logits_at(engine.module, rows):
        logits = engine.module(**inputs, use_cache=False).logits.squeeze(0)
    return slots, teacher_targets(scaled(logits, settings["temperature"]), config, following)


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """Return ``logits / temperature``, the temperature rounded to the logits' type as verl does for the student."""
    if temperature == 1:
        return logits
    return logits / logits.new_full((1,), max(temperature, 1e-8))


@contextmanager
def logits_at(module: Any, index: Tensor) -> Iterator[None]:
    """Compute logits ``[1, N, V]`` at positions ``index`` ``[N]`` only, while the context lasts.

    Positions count through all rows of the model's input, padding included. A hook on the head leaves sharding,
    adapters and the model's own forward as they are, and is the same for verl's packed and padded inputs.
    """

    def choose(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = args
        return (hidden.flatten(0, -2).index_select(0, index).unsqueeze(0), *rest)

    handle = module.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def _padded_index(offsets: Tensor, index: Tensor) -> Tensor:
    """Map positions in packed rows to positions in the same rows padded to the longest."""
    row = torch.searchsorted(offsets, index, right=True) - 1
    return row * offsets.diff().max() + index - offsets[row]


def _autocast(engine: Any) -> AbstractContextManager[Any]:
    """Return the autocast of verl's own forward step."""
    dtype = getattr(engine, "_autocast_dtype", torch.bfloat16)
    return nullcontext() if dtype == torch.float32 else torch.autocast(get_device_name(), dtype=dtype)


def token_budget(budget: int, scored_share: float, module: torch.nn.Module) -> int:
    """Return how many packed tokens the teacher reads in the memory of ``budget`` tokens of verl's log-prob pass.

    A token of that pass has its logits beside a layer's activations, V + A numbers, with A = 4 H + 3 I for the hidden
    size H, the width I of the MLP and V entries of the vocabulary. The teacher has logits at scored tokens only, a
    share s of all:

        tokens = budget (A + V) / (A + s V)

    ``budget`` itself where attention makes a mask over all pairs of these tokens.

    Args:
        budget: tokens of a micro-batch.
        scored_share: s, in [0, 1].
        module: the policy, wrapped or not.
    """
    policy = policy_in(module)
    if policy is None or policy.config._attn_implementation in MASKED_ATTENTION:
        return budget
    shape = policy.config.get_text_config()
    activations = 4 * shape.hidden_size + 3 * (
        getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
    )
    vocab = shape.vocab_size
    return int(budget * (activations + vocab) / (activations + scored_share * vocab))


def _teacher_batch(
    batch: TeacherMiniBatch, settings: dict[str, Any], group: Any, module: torch.nn.Module
) -> TensorDict:
    # Longest first: micro-batches of a fixed number of rows then need little padding, and ranks go in step.
    order = sorted(range(len(batch.rows)), key=lambda row: -len(batch.rows[row]))
    sizes = [len(positions) for positions in batch.positions]
    slots = torch.arange(sum(sizes)).split(sizes) if sizes else ()
    longest = len(batch.rows[order[0]]) if order else 2
    count, longest = reduce_over_ranks([max(len(order), 1), longest], dist.ReduceOp.MAX, group)
    if not settings["use_dynamic_bsz"]:
        micro_batch = settings["micro_batch_size_per_gpu"]
        count = -(-count // micro_batch) * micro_batch
    fill = [torch.zeros(2, dtype=torch.long)]
    missing = count - len(order)
    rows = [batch.rows[row] for row in order] + fill * missing
    tensors = {
        "input_ids": rows,
        "position_ids": [torch.arange(len(row)) for row in rows],
        SLOTS: [slots[row] for row in order] + [NO_SLOT] * missing,
    }
    options = {**settings, "use_fused_kernels": False}
    if settings["use_dynamic_bsz"]:
        budget = settings["max_token_len_per_gpu"]
        if settings["use_remove_padding"]:
            budget = token_budget(budget, sum(sizes) / max(sum(map(len, rows)), 1), module)
        # A row with its block may exceed the budget meant for plain rows; it then goes alone.
        options["max_token_len_per_gpu"] = max(budget, longest)
    return tu.get_tensordict(
        {name: nested(values) for name, values in tensors.items()}, non_tensor_dict=options
    )


def reduce_over_ranks(values: list[int], op: dist.ReduceOp.RedOpType, group: Any) -> list[int]:
    """Return the sum or maximum of each value over the ranks of a group."""
    tensor = torch.tensor(values, device=get_device_id())
    dist.all_reduce(tensor, op=op, group=group)
    return [int(value) for value in tensor.tolist()]
