"""Whether verl, the plugin and the card come together, and in which versions."""

from __future__ import annotations

import torch
import verl  # noqa: F401  (loads the plugin)
from verl.utils.device import get_device_name, get_nccl_backend

from benchmarks.gpu.plan import ERROR
from benchmarks.gpu.results import Run, installed
from sd_search_verl import plugin

NAMES = ("triton", "tensordict", "ray", "TransferQueue", "peft", "accelerate", "numpy", "flash_attn")


def run(run: Run) -> None:
    """Record versions, the plugin's errors and verl's device."""
    errors = [f"{what}: {text.strip().splitlines()[-1]}" for what, text in plugin.errors.items()]
    run.record("plugin loads", ERROR, len(errors), "; ".join(errors))
    chosen = get_device_name()
    run.record("verl's device", ERROR, float(chosen != run.device), f"{chosen}, {get_nccl_backend()}")
    print(*(f"{name} {installed(name)}" for name in NAMES))
    if run.gpu:
        free, total = torch.cuda.mem_get_info()
        print(f"CUDA {torch.version.cuda}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
