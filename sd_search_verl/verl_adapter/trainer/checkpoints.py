"""Which checkpoint a killed run goes on from.

verl names its latest checkpoint in ``latest_checkpointed_iteration.txt``. Killed at the wrong moment, a run leaves that
file empty, or naming a checkpoint whose weights were just removed to make room for the next one, and verl would stop
there. A checkpoint is whole when its ``data.pt`` and all shards are: verl writes ``data.pt`` after them. The buffer of
rollouts of an asynchronous run comes last, in a folder that appears when it is complete.
"""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from omegaconf import DictConfig

from sd_search_verl.errors import UserError
from sd_search_verl.files import write_text

logger = logging.getLogger("verl.sd_search")  # below verl's, which is shown where the root logger is not

TRACKER = "latest_checkpointed_iteration.txt"
BUFFER = "transfer_queue"


def folder_of(run: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return run / f"global_step_{step}"


def checkpoint_to_resume(config: DictConfig) -> Path | None:
    """Return the folder of the checkpoint that verl goes on from, or None if the run starts anew.

    With ``trainer.resume_mode=auto`` it is the one that the tracker file names.
    """
    trainer = config.trainer
    if trainer.resume_mode == "resume_path":
        return Path(trainer.resume_from_path) if trainer.resume_from_path else None
    run = Path(trainer.default_local_dir)
    tracker = run / TRACKER
    named = _named(tracker) if trainer.resume_mode == "auto" else ""
    return folder_of(run, int(named)) if named.isdigit() else None


def step_of(checkpoint: Path | None) -> int:
    """Return the step in a checkpoint folder's name, 0 for None and for other names, such as a copy's."""
    number = checkpoint.name.rpartition("global_step_")[2] if checkpoint else ""
    return int(number) if number.isdecimal() else 0


def is_whole(checkpoint: Path) -> bool:
    """Return whether everything in a checkpoint folder was written to its end, and none of it is removed.

    ``torch.save`` writes zip archives, whose directory comes last, so half a file is not one.
    """
    shards = list((checkpoint / "actor").glob("*.pt"))
    has_model = any(shard.name.startswith("model_") for shard in shards)
    if not has_model or not all(zipfile.is_zipfile(file) for file in [checkpoint / "data.pt", *shards]):
        return False
    # model_world_size_8_rank_3.pt: weights, optimizer and the rest have files of the same ranks, those of this machine.
    ranks: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for shard in shards:
        kind, _, size_and_rank = shard.stem.partition("_world_size_")
        if size_and_rank:
            size, _, rank = size_and_rank.partition("_rank_")
            ranks[size][kind].add(rank)
    return all(one == other for kinds in ranks.values() for one, other in pairwise(kinds.values()))


def processes_of(checkpoint: Path) -> set[int]:
    """Return by how many processes the shards of a checkpoint were written; several numbers where two runs wrote."""
    names = [file.stem for file in (checkpoint / "actor").glob("model_world_size_*_rank_*.pt")]
    return {int(number) for name in names if (number := name.split("_")[3]).isdecimal()}


def point_to_whole_checkpoint(run: Path, buffered: bool = False) -> None:
    """Make verl's tracker file name a whole checkpoint; it is left alone where it does, and where there is none.

    Args:
        buffered: the run saves its buffer of rollouts. The checkpoint that verl names may lack it: a synchronous run's.
    """
    tracker = run / TRACKER
    named = _named(tracker)
    if named.isdigit() and is_whole(folder_of(run, int(named))):
        return
    whole = [path for path in run.glob("global_step_*") if is_whole(path)]
    steps = [step_of(path) for path in whole if step_of(path) and (not buffered or (path / BUFFER).is_dir())]
    if not steps:
        if named:
            raise UserError(
                f"{tracker} names checkpoint {named!r}, which is not whole, and there is no other; "
                "start anew with trainer.resume_mode=disable, or in another trainer.default_local_dir"
            )
        tracker.unlink(missing_ok=True)
        return
    logger.warning(
        "%s named %r, which is not a whole checkpoint: going on from step %d", tracker, named, max(steps)
    )
    write_text(tracker, str(max(steps)))


def _named(tracker: Path) -> str:
    """Return what the tracker file says, be it a number or the rest of a broken file."""
    return tracker.read_text(errors="replace").strip() if tracker.is_file() else ""


def before_saving(run: Path, step: int) -> Path:
    """Prepare a step's checkpoint folder; what an earlier run left there no longer counts as whole."""
    folder = folder_of(run, step)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.pt").unlink(missing_ok=True)
    shutil.rmtree(folder / BUFFER, ignore_errors=True)
    return folder


def remove_surplus(run: Path, step: int, trainer: DictConfig) -> None:
    """Remove the oldest checkpoints up to ``step`` beyond the number to keep, as the section ``trainer`` sets it.

    verl counts those only that its own process saved, so that every resumption would leave some for ever, and it
    removes no buffer of rollouts.
    """
    actors = trainer.get("max_actor_ckpt_to_keep")
    keep = {"actor": actors, "critic": trainer.get("max_critic_ckpt_to_keep"), BUFFER: actors}
    for part, most in keep.items():
        saved = [folder for folder in run.glob("global_step_*") if (folder / part).is_dir()]
        saved = sorted((folder for folder in saved if 0 < step_of(folder) <= step), key=step_of)
        for folder in saved[:-most] if most else ():
            if part != BUFFER:  # verl has removed those of this process, so this is one of an earlier one
                logger.warning("%s is removed: %d newer ones are kept", folder / part, most)
            shutil.rmtree(folder / part, ignore_errors=True)
