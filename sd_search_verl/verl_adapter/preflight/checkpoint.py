"""The checkpoint that the run goes on from; verl looks for it only after the models are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.trainer import checkpoints

MODES = ("auto", "disable", "resume_path")

OTHER_MODE = Rule(
    "trainer.resume_mode",
    "trainer.resume_mode={mode} is none of " + ", ".join(MODES),
    "set trainer.resume_mode=auto to go on from the last checkpoint, disable to start anew",
)
NO_PATH = Rule(
    "trainer.resume_from_path",
    "trainer.resume_from_path={path} is no folder of a checkpoint, global_step_N",
    "give the folder global_step_N of a run, or set trainer.resume_mode=auto",
)
NO_STEP = Rule(
    "trainer.resume_from_path",
    "trainer.resume_from_path={path} names no step: what follows global_step_ is no number, and verl stops at it",
    "name the folder global_step_N, or give another",
)
SLASH = Rule(
    "trainer.resume_from_path",
    "trainer.resume_from_path={path} goes on after the step, and verl stops at it",
    "set trainer.resume_from_path={plain}",
)
NOT_WHOLE = Rule(
    "trainer.resume_from_path",
    "{path} is no whole checkpoint: data.pt or a shard in actor/ is missing or ends early",
    "give another global_step_N",
)
OTHER_WORLD = Rule(
    "trainer.n_gpus_per_node",
    "{path} was written by {there} processes, and this run has {here}",
    "go on with trainer.nnodes and trainer.n_gpus_per_node on as many, {there}, or merge it as docs/evaluation.md says "
    "and begin a run with that model in another trainer.default_local_dir",
)


def check_checkpoint(config: DictConfig) -> Iterator[Finding]:
    """Check that a checkpoint that the config names is there and whole."""
    trainer = config.trainer
    if trainer.resume_mode not in MODES:
        yield OTHER_MODE.finding(mode=trainer.resume_mode)
        return
    path = checkpoints.checkpoint_to_resume(config)
    if trainer.resume_mode == "resume_path":
        yield from _check_path(trainer.resume_from_path, path)
    if path is not None:
        here, there = trainer.nnodes * trainer.n_gpus_per_node, checkpoints.processes_of(path)
        if there and here not in there:
            yield OTHER_WORLD.finding(path=path, there=" or ".join(map(str, sorted(there))), here=here)


def _check_path(given: str, path: Path | None) -> Iterator[Finding]:
    """Check the path as it is given: verl reads the step from that text, where ``Path`` drops a slash at its end."""
    if path is None or not path.name.startswith("global_step_") or not path.is_dir():
        yield NO_PATH.finding(path=given)
    elif not re.fullmatch("global_step_[0-9]+", path.name):
        yield NO_STEP.finding(path=given)
    elif not given.endswith(path.name):
        yield SLASH.finding(path=given, plain=path)
    elif not checkpoints.is_whole(path):
        yield NOT_WHOLE.finding(path=path)
