"""The teacher pass: one forward without gradient over the teacher's rows, keeping logits at scored positions only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.credit import token_log_probs
from sd_search_verl.distill.targets import Targets, keep


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


class TeacherPass:
    """Keeps what the loss needs of the teacher's logits at scored positions, and lets go of all others.

    The engine calls it twice a micro-batch: with the logits, then with its own (here empty) outputs.
    """

    def __init__(self, num_slots: int, config: SDSearchConfig, with_credit: bool) -> None:
        self._num_slots, self._config, self._with_credit = num_slots, config, with_credit
        self.targets: Targets = {}

    def __call__(
        self, *, student_logits: Tensor | None = None, data: TensorDict, **_: Any
    ) -> dict[str, Tensor] | tuple[Tensor, dict[str, Any]]:
        if student_logits is None:
            return torch.zeros((), device=get_device_id()), {}
        index, slots = packed_index(data, "sd_positions", "sd_slots")
        config = self._config
        rows = student_logits.squeeze(0).index_select(0, index)
        kept = keep(rows, config.top_k, config.support, config.tail)
        if self._with_credit:
            kept["token_log_p"] = token_log_probs(rows, data["input_ids"].values()[index + 1])
        for name, values in kept.items():
            if name not in self.targets:
                self.targets[name] = values.new_empty(self._num_slots, *values.shape[1:])
            self.targets[name].index_copy_(0, slots, values)
        return {}


def packed_index(data: TensorDict, positions: str, *others: str) -> tuple[Tensor, ...]:
    """Index of positions in the packed logits of a micro-batch, and the other fields at the same entries.

    ``positions`` counts from each row's start; entries of -1 are placeholders and left out. No host synchronisation
    but the one that the boolean mask needs.
    """
    field = data[positions]
    row = torch.arange(field.shape[0], device=field.device).repeat_interleave(field.offsets().diff())
    values = field.values()
    real = values >= 0
    index = data["input_ids"].offsets()[row[real]] + values[real]
    return (index, *(data[name].values()[real] for name in others))


def run_teacher_pass(
    engine: Any, batch: MiniBatchRows, settings: dict[str, Any], group: Any, config: SDSearchConfig
) -> Targets:
    """The teacher at all scored positions, in the order of the rows and their positions.

    Every rank takes part in every forward, whatever it has to score: ranks are padded to the same number of rows.

    Args:
        engine: verl's FSDP engine, in train mode; left in train mode.
        settings: non-tensor options of the forward (temperature, micro-batch size, token budget, ...).
        group: data-parallel process group.
    """
    traced = bool((batch.traces >= 0).any())
    collector = TeacherPass(sum(len(positions) for positions in batch.positions), config, traced)
    data = _teacher_batch(batch, settings, group)
    engine.module.eval()  # dropout off, and verl's activation offload acts in train mode only
    try:
        engine.infer_batch(data, loss_function=collector)
    finally:
        engine.module.train()
    return collector.targets


def _teacher_batch(batch: MiniBatchRows, settings: dict[str, Any], group: Any) -> TensorDict:
    rows, positions = list(batch.rows), list(batch.positions)
    count, longest = _agree_on_maximum([len(rows), max((len(row) for row in rows), default=2)], group)
    micro_batch = settings["micro_batch_size_per_gpu"] or 1
    count = max(1, -(-count // micro_batch)) * micro_batch
    slots = (
        list(torch.arange(sum(map(len, positions))).split([len(p) for p in positions])) if positions else []
    )
    while len(rows) < count:
        rows.append(torch.zeros(2, dtype=torch.long))
        positions.append(torch.tensor([-1]))
        slots.append(torch.tensor([-1]))
    tensors = {
        "input_ids": rows,
        "position_ids": [torch.arange(len(row)) for row in rows],
        "loss_mask": [torch.ones(len(row), dtype=torch.long) for row in rows],
        "sd_positions": positions,
        "sd_slots": slots,
    }
    options = dict(settings)
    if options["max_token_len_per_gpu"] is not None:
        # A row with its block may exceed the budget meant for plain rows; it then goes alone.
        options["max_token_len_per_gpu"] = max(options["max_token_len_per_gpu"], longest)
    nested = {
        name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in tensors.items()
    }
    return tu.get_tensordict(
        nested,
        non_tensor_dict={
            **options,
            "use_fused_kernels": False,
            "calculate_entropy": False,
            "distillation_use_topk": True,  # verl's switch for the hook on the logits; nothing of it is top-k
            "distillation_only": True,  # no log-probs
        },
    )


def _agree_on_maximum(values: list[int], group: Any) -> list[int]:
    tensor = torch.tensor(values, device=get_device_id())
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=group)
    return [int(value) for value in tensor.tolist()]
