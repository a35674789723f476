"""A CPU platform for verl's public platform registry (verl/plugin/platform)."""

from __future__ import annotations

import os
import resource
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


def register() -> None:
    """Make the platform ``cpu`` known to verl, and let verl find its FSDP engines for it."""
    PlatformRegistry.register(platform="cpu")(PlatformCPU)
    # FSDP engines are registered for cuda and npu only; verl's own variable changes the look-up key.
    os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing: a CPU has no devices to choose from, no queue of work, no cache and no profiler."""


class _CpuModule(types.ModuleType):
    """``torch.cpu`` with the further names of ``torch.cuda`` that verl calls on its device module."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def get_device_name(self, *_: Any) -> str:
        return "CPU"

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: Any) -> None:
        torch.set_rng_state(state)

    def memory_allocated(self, *_: Any) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page

    set_device = synchronize = empty_cache = ipc_collect = reset_peak_memory_stats = _nothing


class PlatformCPU(PlatformBase):
    """verl's device layer on a CPU: gloo, no inter-process device memory, a logical Ray resource named GPU."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _CpuModule("sd_search_verl_cpu_device")

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        # verl calls tensor.to(get_device_id()), so this must be a device and not an index.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        # False makes verl send weights through shared memory.
        return False

    set_device = synchronize = set_allocator_settings = empty_cache = _nothing
    profiler_start = profiler_stop = cudart = _nothing
