"""The checkpoint that the run goes on from; verl looks for it only after the models are loaded."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter import resume

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
NOT_WHOLE = Rule(
    "trainer.resume_from_path",
    "{path} is no whole checkpoint: data.pt or a shard in actor/ is missing or ends early",
    "give another global_step_N",
)


def check_checkpoint(config: DictConfig) -> Iterator[Finding]:
    """Check that a checkpoint that the config names is there and whole."""
    trainer = config.trainer
    if trainer.resume_mode not in MODES:
        yield OTHER_MODE.finding(mode=trainer.resume_mode)
    elif trainer.resume_mode == "resume_path":
        path = resume.checkpoint_to_resume(config)
        if path is None or not path.name.startswith("global_step_") or not path.is_dir():
            yield NO_PATH.finding(path=trainer.resume_from_path)
        elif not resume.is_whole(path):
            yield NOT_WHOLE.finding(path=path)
