"""The device of a run: verl finds it by itself, and takes a GPU for granted."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from sd_search_verl.finding import Finding, Rule

NO_PLATFORM = Rule(
    "trainer.device",
    "trainer.device=cpu, while verl takes this machine's device for {device}: without an accelerator it ends "
    "when its processes meet, for want of NCCL",
    "give the command in an environment with VERL_PLATFORM=cpu (docs/quickstart.md has the other variables), or use a "
    "config for a GPU",
)


def check_device(config: DictConfig) -> Iterator[Finding]:
    """Check that a run on the CPU has verl's platform for it; beside an accelerator verl takes that."""
    import torch
    from verl.utils.device import get_device_name

    if config.trainer.device == "cpu" != get_device_name() and not torch.accelerator.is_available():
        yield NO_PLATFORM.finding(device=get_device_name())
