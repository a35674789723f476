"""Room for what the run will write."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.preflight.files import is_remote

WEIGHT_BYTES, MOMENTS_BYTES = 4, 8
"""Of a parameter in a checkpoint: its value in fp32, and Adam's two moments of it if it is trained."""

_ROOM = "{free} GiB free at {folder}; {what} need {needed}"
FULL = Rule(
    "trainer.default_local_dir",
    _ROOM,
    "free disk space, point trainer.default_local_dir elsewhere, or lower trainer.max_actor_ckpt_to_keep",
)

FOLDERS = (FULL.name, "trainer.rollout_data_dir", "trainer.validation_data_dir")
UNWRITABLE = Rule(
    "{option}",
    "{folder} cannot be written: {reason}",
    "give a folder that this user may write, or one that does not exist yet",
)
REMOTE = Rule(
    "{option}",
    "{option}={value} is no folder of this machine: verl writes into local folders, here into one named {name!r}",
    "give a folder that is mounted on every node, and copy it from there",
)


def check_disk(config: DictConfig) -> Iterator[Finding]:
    """Check that the folders of the run can be written, and that the disk holds the checkpoints it will keep."""
    options = [option for option in FOLDERS if OmegaConf.select(config, option)]
    wrong = {option: [*_check_folder(config, option)] for option in options}
    for findings in wrong.values():
        yield from findings
    if not wrong.get(FULL.name):
        yield _check_room(config)


def _check_folder(config: DictConfig, option: str) -> Iterator[Finding]:
    value = str(OmegaConf.select(config, option))
    if is_remote(value):
        yield REMOTE.finding(option=option, value=value, name=value.partition("/")[0])
        return
    there = _existing(Path(value))
    try:
        # Permissions do not tell: root has them for /sys, where nobody can write.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = f"{there}: {error.strerror}"
        yield UNWRITABLE.finding(option=option, folder=value, reason=reason)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest parent of it that exists."""
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())


def _check_room(config: DictConfig) -> Finding:
    there = _existing(Path(str(config.trainer.default_local_dir)))
    free = shutil.disk_usage(there).free / 2**30
    parameters = _parameters(Path(str(config.actor_rollout_ref.model.path)))
    steps, every = config.trainer.total_training_steps, config.trainer.save_freq
    if every <= 0 or not parameters:
        needed = 1.0
        what = "logs"
    else:
        kept = config.trainer.max_actor_ckpt_to_keep or (steps // every if steps else 1)
        # One more: the old one goes when the new one is whole.
        each = parameters * _bytes_per_parameter(config) / 2**30
        needed = each * (kept + 1)
        what = f"{kept} + 1 checkpoints of {each:.1f} GiB"
    values = {"free": f"{free:.0f}", "folder": there, "what": what, "needed": f"{needed:.1f}"}
    found = _ROOM.format(**values)
    return Finding(FULL.name, True, found) if free >= needed else FULL.finding(**values)


def _bytes_per_parameter(config: DictConfig) -> int:
    """Return the bytes of a parameter in a checkpoint; adapters themselves are few."""
    contents = OmegaConf.select(config, "actor_rollout_ref.actor.checkpoint.save_contents")
    trained = not OmegaConf.select(config, "actor_rollout_ref.model.lora_rank")
    moments = trained and (contents is None or "optimizer" in contents)
    return WEIGHT_BYTES + (MOMENTS_BYTES if moments else 0)


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
