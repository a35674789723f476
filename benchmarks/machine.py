"""How a machine is called in the CSVs."""

from __future__ import annotations

import os
import platform

import torch


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the CPU with its model if the system tells it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, one thread of {os.cpu_count()} shared cores, {platform.machine()}"
