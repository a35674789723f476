"""New weights for the rollout servers of one machine without an accelerator: a file in shared memory.

The separate asynchronous trainer refuses verl's ``naive`` way of handing on weights, and verl's other ones need device
memory (nccl, hccl, kimi) or a network transport (nixl, mooncake). Chosen by
``actor_rollout_ref.rollout.checkpoint_engine.backend=shared_memory`` and its ``custom_backend_module``.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

POLL_S = 0.02


@CheckpointEngineRegistry.register("shared_memory")
class SharedMemoryCheckpointEngine(CheckpointEngine):
    """The first actor rank writes a file, and the rollout workers wait for it.

    Args:
        bucket_size: not used: the weights are one file.
        is_master: whether this is the first actor rank.
    """

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self._is_master = is_master
        self._path: Path | None = None

    def prepare(self) -> str | None:
        """Return the path of the next weights; only the first actor rank makes one."""
        if not self._is_master:
            return None
        folder = Path("/dev/shm")
        return tempfile.mktemp(prefix="weights_", dir=folder if folder.is_dir() else None)

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Any]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Tell everybody the path."""
        return {"path": metadata[:1] * actor_wg_world_size}, {"path": metadata[:1] * rollout_world_size}

    def init_process_group(self, path: str) -> None:
        """Remember the path."""
        self._path = Path(path)

    def finalize(self) -> None:
        """Remove the file."""
        if self._is_master and self._path is not None:
            self._path.unlink(missing_ok=True)

    async def send_weights(
        self, weights: Iterator[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> None:
        """Write the weights; every actor rank walks them, because a sharded one is gathered from all."""
        assert self._path is not None
        gathered = {name: weight.detach().cpu().contiguous().clone() for name, weight in weights}
        if self._is_master:
            unfinished = self._path.with_suffix(".unfinished")
            save_file(gathered, unfinished)
            unfinished.replace(self._path)

    async def receive_weights(
        self, global_steps: int | None = None
    ) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """Yield the weights when they are there."""
        assert self._path is not None
        while not self._path.exists():
            await asyncio.sleep(POLL_S)
        for name, weight in load_file(self._path).items():
            yield name, weight
