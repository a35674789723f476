"""The options that a run began with: kept in its folder, and compared when it goes on from a checkpoint.

Beside them stands a checksum of every file of questions and of the reward's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sd_search_verl.errors import UserError, without_credentials
from sd_search_verl.files import read_json, sha256, write_json
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.runs.schema import OPTIONS_FILE
from sd_search_verl.verl_adapter.preflight.files import data_files
from sd_search_verl.verl_adapter.trainer import checkpoints

OTHER_OPTIONS = Rule(
    OPTIONS_FILE,
    "the run goes on from {checkpoint} with other options than it began with: {changed}",
    "give those that it began with, unless this is meant; another run needs another trainer.default_local_dir",
    warns=True,
)
UNREADABLE = Rule(
    OPTIONS_FILE,
    "{error}; the options of this start cannot be compared with those that the run began with",
    "compare them yourself, and remove the file",
    warns=True,
)
_OWN = {
    # They say what they change, and where to.
    "trainer.resume_mode",
    "trainer.resume_from_path",
    "trainer.default_local_dir",
    "trainer.experiment_name",
    "actor_rollout_ref.rollout.trace.experiment_name",
    "search.retriever_urls",  # compared by what they search
    # verl's command sets them itself.
    "transfer_queue.enable",
    "trainer.device",
}
_SHOWN = 8
_CONTENT = "content of "


def options_of(config: DictConfig) -> dict[str, Any]:
    """Return the value of every option by its dotted name, as JSON holds it.

    Those of ``ray_kwargs``, which change no result and may hold keys, are left out.

    Raises:
        OmegaConfBaseException: an interpolation cannot be resolved.
    """
    plain = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    options = {name: value for name, value in _leaves(plain) if not name.startswith("ray_kwargs.")}
    return json.loads(json.dumps(options, default=str)) | _contents(config)


def _contents(config: DictConfig) -> dict[str, str]:
    """Return the SHA-256 of every file of questions and of the reward's, by path: a name does not tell a change."""
    files = [*data_files(config, "train_files"), *data_files(config, "val_files")]
    files.append(str(OmegaConf.select(config, "reward.custom_reward_function.path")))
    return {f"{_CONTENT}{path}": sha256(path)[:12] for path in map(Path, files) if path.is_file()}


def keep_options(folder: Path, options: dict[str, Any], resumed: bool) -> None:
    """Write the options into the folder of a run that begins; one that goes on keeps those of its beginning."""
    if not resumed or not (folder / OPTIONS_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / OPTIONS_FILE, options)


def check_changed_options(config: DictConfig) -> Iterator[Finding]:
    """Compare the options with those that the run of the checkpoint to go on from began with."""
    checkpoint = checkpoints.checkpoint_to_resume(config)
    if (
        checkpoint is None
        or config.trainer.get("val_only")
        or not (checkpoint.parent / OPTIONS_FILE).is_file()
    ):
        return
    try:
        before, now = read_json(checkpoint.parent / OPTIONS_FILE), options_of(config)
        if not isinstance(before, dict):
            raise UserError(f"{checkpoint.parent / OPTIONS_FILE} holds no options")
    except UserError as error:
        yield UNREADABLE.finding(error=error)
        return
    except OmegaConfBaseException:
        return  # what cannot be resolved is named by what reads it
    names = sorted((before.keys() | now.keys()) - _OWN)
    # The content of a file of one start alone has another name, which is an option.
    names = [name for name in names if not name.startswith(_CONTENT) or (name in before and name in now)]
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        shown = [f"{name}={now.get(name)} (was {before.get(name)})" for name in changed[:_SHOWN]]
        shown = [*map(without_credentials, shown)]
        more = [f"and {len(changed) - _SHOWN} more"] if changed[_SHOWN:] else []
        yield OTHER_OPTIONS.finding(checkpoint=checkpoint, changed=", ".join([*shown, *more]))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
