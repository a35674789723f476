"""The process group of a worker that is alone: it needs no port.

verl looks for a free port when it makes a worker group, and the worker listens there some ten seconds later, after its
imports. In between the system may give the port to another process, and the run ends before its first step with
EADDRINUSE. verl's own function makes no second group.
"""

from __future__ import annotations

import os

import torch.distributed as dist
from verl.utils.device import get_device_name, get_nccl_backend


def initialize_alone() -> None:
    """Make the process group with a store in this process, if the world is one rank and nothing else was asked for."""
    if dist.is_initialized() or os.environ.get("WORLD_SIZE") != "1" or os.environ.get("DIST_INIT_METHOD"):
        return
    device = get_device_name()
    backend = "cpu:gloo" if device == "cpu" else f"cpu:gloo,{device}:{get_nccl_backend()}"
    store = dist.HashStore()  # type: ignore[attr-defined]  # documented, but in no __all__
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
