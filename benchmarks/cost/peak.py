"""Peak memory of a piece of a program: the allocator's on a GPU, the process's resident set on a CPU (Linux)."""

from __future__ import annotations

from pathlib import Path

import torch


class Peak:
    """Counts from its creation to :meth:`read`."""

    def __init__(self, device: str) -> None:
        self._device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the kernel then restarts VmHWM

    def read(self) -> float:
        """Return the peak so far in GB (1e9 bytes)."""
        if self._device == "cuda":
            return torch.cuda.max_memory_allocated() / 1e9
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
