"""The teacher pass: one forward without gradient over the teacher's rows, with logits at scored positions only.

What it costs is the layers over the rows' tokens. Rows end at their last scored token, are packed as verl packs (sorted
by length where it pads), and the head sees the hidden states of scored positions and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.ulysses import get_ulysses_sequence_parallel_rank, get_ulysses_sequence_parallel_world_size
from verl.workers.engine.utils import prepare_micro_batches

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.support import TeacherTargets, teacher_targets


@dataclass(frozen=True)
class MiniBatchRows:
    """One rank's part of a mini-batch, read from the fields of ``data_plane.pack``.

    Attributes:
        rows: teacher sequences.
        positions: per sequence, indices of the logits to keep.
        student_positions: per trajectory, indices of the student's logits to compare, in slot order.
        weights: ``[B]`` trajectory weights.
        traces: ``[B]`` number of the trajectory's trace, -1 where it is not traced.
    """

    rows: list[Tensor]
    positions: list[Tensor]
    student_positions: list[Tensor]
    weights: Tensor
    traces: Tensor

    @property
    def tokens_per_trajectory(self) -> Tensor:
        """``[B]`` number of scored tokens."""
        return torch.tensor([len(positions) for positions in self.student_positions])


def read_rows(data: TensorDict) -> MiniBatchRows:
    """Unpack the fields of a mini-batch on the CPU."""
    fields = ("sd_ids", "sd_lengths", "sd_teacher_positions", "sd_student_positions", "sd_weight")
    packed = zip(*(data[name].cpu().unbind() for name in fields), strict=True)
    weights, traces = (data[name].values().cpu() for name in ("sd_weight", "sd_trace"))
    batch = MiniBatchRows([], [], [], weights.float(), traces)
    for ids, lengths, teacher, student, _ in packed:
        batch.student_positions.append(student[student >= 0])
        if int(lengths[0]) < 0:
            continue
        start = 0
        for row in ids.split(lengths.tolist()):
            inside = (teacher >= start) & (teacher < start + len(row))
            batch.rows.append(row)
            batch.positions.append(teacher[inside] - start)
            start += len(row)
    return batch


@dataclass(frozen=True)
class Slice:
    """The part of a packed micro-batch that is on this rank: all of it, or its share of sequence parallelism."""

    start: int
    stop: int

    @classmethod
    def of(cls, tokens: int) -> Slice:
        """Of ``tokens`` packed tokens, padded as verl pads them to equal shares."""
        share = -(-tokens // get_ulysses_sequence_parallel_world_size())
        start = share * get_ulysses_sequence_parallel_rank()
        return cls(start, start + share)


def packed_positions(data: TensorDict, name: str) -> Tensor:
    """Return every entry of field ``name``, a position in its row, as an index in the packed tokens.

    A placeholder (-1) gives the index before its row's start.
    """
    field = data[name]
    values = field.values()
    starts = data["input_ids"].offsets()[:-1]
    return starts.repeat_interleave(field.offsets().diff(), output_size=len(values)) + values


def packed_index(data: TensorDict, positions: str, *others: str, part: Slice) -> tuple[Tensor, ...]:
    """Index of positions in the packed tokens of a micro-batch, and the other fields at the same entries.

    Placeholders are left out, and so is what is not in ``part``. Waits for the device once, to know how many are left.
    """
    index = packed_positions(data, positions)
    wanted = (data[positions].values() >= 0) & (index >= part.start) & (index < part.stop)
    at = wanted.nonzero().squeeze(-1)
    return (index[at], *(data[name].values()[at] for name in others))


def run_teacher_pass(
    engine: Any, batch: MiniBatchRows, settings: dict[str, Any], group: Any, config: SDSearchConfig
) -> TeacherTargets:
    """The teacher at all scored positions, in the order of the rows and their positions.

    Every rank takes part in every forward, whatever it has to score: ranks are padded to the same number of rows.

    Args:
        engine: verl's FSDP engine, in train mode; left in train mode.
        settings: non-tensor options of the forward (temperature, micro-batch size, token budget, ...).
        group: data-parallel process group.
    """
    data = _teacher_batch(batch, settings, group)
    tu.assign_non_tensor(data, sp_size=engine.ulysses_sequence_parallel_size)
    micro_batches, _ = prepare_micro_batches(data, dp_group=group, same_micro_num_in_dp=True)
    targets: TeacherTargets | None = None
    num_slots = sum(len(positions) for positions in batch.positions)
    engine.module.eval()  # dropout off, and verl's activation offload acts in train mode only
    try:
        with torch.no_grad(), torch.profiler.record_function("sd_search/teacher"):
            for micro_batch in micro_batches:
                slots, part = _forward(engine, micro_batch, settings, config)
                if targets is None:
                    targets = part.map(lambda values: values.new_zeros(num_slots, *values.shape[1:]))
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
    engine: Any, micro_batch: TensorDict, settings: dict[str, Any], config: SDSearchConfig
) -> tuple[Tensor, TeacherTargets]:
    # The micro-batch is still on the host, so nothing here waits for the device.
    tokens = micro_batch["input_ids"].values()
    part = Slice.of(len(tokens))
    index, slots = packed_index(micro_batch, "sd_positions", "sd_slots", part=part)
    following = tokens[index + 1]
    packed = settings["use_remove_padding"]
    rows = index - part.start if packed else _padded_index(micro_batch["input_ids"].offsets(), index)
    device = get_device_id()
    rows, slots, following = (values.to(device, non_blocking=True) for values in (rows, slots, following))
    inputs, _ = engine.prepare_model_inputs(micro_batch=micro_batch.to(device))
    with _autocast(engine), head_rows(engine.module, rows):
        logits = engine.module(**inputs, use_cache=False).logits.squeeze(0)
    return slots, teacher_targets(scaled(logits, settings["temperature"]), config, following)


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """``logits / temperature``, the temperature rounded to the logits' type as verl rounds it for the student."""
    if temperature == 1:
        return logits
    return logits / logits.new_full((1,), max(temperature, 1e-8))


@contextmanager
def head_rows(module: Any, index: Tensor) -> Iterator[None]:
    """While the context lasts, the model's head makes logits ``[1, N, V]`` of positions ``index`` ``[N]`` only.

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
    """Positions in packed rows as positions in the same rows padded to the longest."""
    row = torch.searchsorted(offsets, index, right=True) - 1
    return row * offsets.diff().max() + index - offsets[row]


def _autocast(engine: Any) -> AbstractContextManager[Any]:
    """As in verl's own forward step."""
    dtype = getattr(engine, "_autocast_dtype", torch.bfloat16)
    return nullcontext() if dtype == torch.float32 else torch.autocast(get_device_name(), dtype=dtype)


def _teacher_batch(batch: MiniBatchRows, settings: dict[str, Any], group: Any) -> TensorDict:
    # Longest first: micro-batches of a fixed number of rows then need little padding, and ranks go in step.
    order = sorted(range(len(batch.rows)), key=lambda row: -len(batch.rows[row]))
    sizes = [len(positions) for positions in batch.positions]
    slots = torch.arange(sum(sizes)).split(sizes) if sizes else ()
    longest = len(batch.rows[order[0]]) if order else 2
    count, longest = _agree_on_maximum([len(order), longest], group)
    if not settings["use_dynamic_bsz"]:
        micro_batch = settings["micro_batch_size_per_gpu"]
        count = -(-count // micro_batch) * micro_batch
    fill, none = [torch.zeros(2, dtype=torch.long)], [torch.tensor([-1])]
    missing = count - len(order)
    rows = [batch.rows[row] for row in order] + fill * missing
    tensors = {
        "input_ids": rows,
        "position_ids": [torch.arange(len(row)) for row in rows],
        "sd_positions": [batch.positions[row] for row in order] + none * missing,
        "sd_slots": [slots[row] for row in order] + none * missing,
    }
    options = {**settings, "use_fused_kernels": False}
    if settings["use_dynamic_bsz"]:
        # A row with its block may exceed the budget meant for plain rows; it then goes alone.
        options["max_token_len_per_gpu"] = max(settings["max_token_len_per_gpu"], longest)
    return tu.get_tensordict(
        {name: nested(values) for name, values in tensors.items()}, non_tensor_dict=options
    )


def nested(rows: Sequence[Tensor]) -> Tensor:
    """Rows of different lengths as one jagged tensor."""
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def _agree_on_maximum(values: list[int], group: Any) -> list[int]:
    tensor = torch.tensor(values, device=get_device_id())
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=group)
    return [int(value) for value in tensor.tolist()]
