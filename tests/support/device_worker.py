"""verl's actor on the fake device: what verl keeps on the host is there, what it moves is on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from support import fake_device
from support.engine import compose, make_worker, single_rank_environment


def unsharded_worker(model: Path, overrides: Sequence[str] = ()) -> Any:
    """The actor worker on the CPU, without FSDP around its module: FSDP's own streams need a real device."""
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    def bare(engine: Any, module: torch.nn.Module) -> torch.nn.Module:
        engine._autocast_dtype = torch.float32
        return module

    single_rank_environment()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FSDPEngine, "_build_fsdp_module", bare)
        return make_worker(compose(model, overrides))


@contextmanager
def device_worker(model: Path, overrides: Sequence[str] = ()) -> Iterator[tuple[Any, fake_device.FakeDevice]]:
    """The same worker with its model on the fake device, and verl told that this is its platform."""
    from verl.plugin.platform import platform_manager

    from sd_search_verl.verl_adapter.cpu.platform import PlatformCPU

    class Platform(PlatformCPU):
        device_name = fake_device.NAME

        def current_device(self) -> torch.device:
            return torch.device(fake_device.NAME)

    worker = unsharded_worker(model, overrides)
    with fake_device.fake_device() as device, pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform_manager, "_current_platform", Platform())
        patch.setattr(worker.actor, "device_name", fake_device.NAME)
        engine = worker.actor.engine
        engine.module.to(fake_device.NAME)
        engine.optimizer = engine._build_optimizer(engine.module)
        engine.lr_scheduler = engine._build_lr_scheduler(engine.optimizer)
        yield worker, device
