"""Room for what the run will write."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from sd_search_verl.finding import Finding, Rule

BYTES_PER_PARAMETER = 12
"""A checkpoint in fp32: weights and Adam's two moments."""

_ROOM = "{free} GiB free at {folder}; {what} need {needed}"
FULL = Rule(
    "trainer.default_local_dir",
    _ROOM,
    "free disk space, point trainer.default_local_dir elsewhere, or lower trainer.max_actor_ckpt_to_keep",
)

UNWRITABLE = Rule(
    "trainer.default_local_dir",
    "{folder} cannot be written: {reason}",
    "give a folder that this user may write, or one that does not exist yet",
)


def check_disk(config: DictConfig) -> Iterator[Finding]:
    """Check that the disk holds the checkpoints that the run will keep."""
    folder = Path(str(config.trainer.default_local_dir)).expanduser()
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = f"{there} is {'not writable' if there.is_dir() else 'a file'}"
        yield UNWRITABLE.finding(folder=folder, reason=reason)
        return
    free = shutil.disk_usage(there).free / 2**30
    parameters = _parameters(Path(str(config.actor_rollout_ref.model.path)).expanduser())
    steps, every = config.trainer.total_training_steps, config.trainer.save_freq
    if every <= 0 or not parameters:
        needed = 1.0
        what = "logs"
    else:
        kept = config.trainer.max_actor_ckpt_to_keep or (steps // every if steps else 1)
        # One more: the old one goes when the new one is whole.
        each = parameters * BYTES_PER_PARAMETER / 2**30
        needed = each * (kept + 1)
        what = f"{kept} + 1 checkpoints of {each:.1f} GiB"
    values = {"free": f"{free:.0f}", "folder": there, "what": what, "needed": f"{needed:.1f}"}
    found = _ROOM.format(**values)
    yield Finding(FULL.name, True, found) if free >= needed else FULL.finding(**values)


def _parameters(model: Path) -> int:
    """Return the number of parameters of a local folder of safetensors, from their headers; 0 without any."""
    total = 0
    for file in model.glob("*.safetensors") if model.is_dir() else ():
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                total += math.prod(tensor["shape"])
    return total
