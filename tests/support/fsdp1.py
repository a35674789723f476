"""verl's FSDP1 engine on a CPU, and what it holds as plain tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import _init_utils

PREFIX = "_fsdp_wrapped_module."


@contextmanager
def cpu_states_allowed() -> Iterator[None]:
    """Skip the one check of torch that forbids verl's FSDP1 on a CPU while the context lasts.

    verl builds FSDP with ``sync_module_states=True`` (verl/workers/engine/fsdp/transformer_impl.py,
    ``_build_fsdp_module``), and torch demands states on a GPU for it (torch/distributed/fsdp/_init_utils.py,
    ``_check_module_states_for_sync_module_states``). The broadcast itself works over gloo.
    """
    check = _init_utils._check_module_states_for_sync_module_states
    _init_utils._check_module_states_for_sync_module_states = lambda states: None
    try:
        yield
    finally:
        _init_utils._check_module_states_for_sync_module_states = check


def gradients(module: Any) -> dict[str, Tensor]:
    """Return the gradients of all ranks' flat parameters, cut into the model's own; a collective call."""
    found = {}
    for name, unit in module.named_modules():
        if not isinstance(unit, FSDP) or unit._handle is None:
            continue
        flat = unit._handle.flat_param
        whole = flat.grad
        if unit._handle.uses_sharded_strategy:
            shards = [torch.empty_like(whole) for _ in range(unit._handle.world_size)]
            dist.all_gather(shards, whole, group=unit.process_group)
            whole = torch.cat(shards)
        sizes = [shape.numel() for shape in flat._shapes]
        parts = whole[: sum(sizes)].split(sizes)
        prefix = f"{name}.".replace(PREFIX, "").lstrip(".")
        for fqn, shape, part in zip(flat._fqns, flat._shapes, parts, strict=True):
            found[prefix + fqn] = part.view(shape).clone()
    return found


def weights(module: Any) -> dict[str, Tensor]:
    """Return a copy of the whole parameters; a collective call."""
    with FSDP.summon_full_params(module, writeback=False):
        return {name.replace(PREFIX, ""): p.detach().clone() for name, p in module.named_parameters()}
