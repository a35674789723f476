"""A Hydra callback that refuses a config with our sections and another trainer, agent loop or reward, or other files.

verl's command composes its config with Hydra and then starts the trainer that the config names, so a config that names
another trainer never calls ours. Hydra calls this callback in the command's own process before verl sees the config.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import hydra.conf  # noqa: F401  (stores the default config)
from hydra.core.config_store import ConfigStore
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from sd_search_verl.config import ConfigError
from sd_search_verl.errors import on_one_line
from sd_search_verl.verl_adapter.preflight.command import hidden_files
from sd_search_verl.verl_adapter.preflight.method import has_sections, refuse_other_method
from sd_search_verl.verl_adapter.preflight.retrievers import check_addresses

FIX = "Fix: correct the option that the message names; `sd-search check` with the same arguments lists every finding"


class RefuseOtherMethod(Callback):
    """Ends the process when the job would not be SD-Search, would save a key, or leaves out a file of the user's.

    Configs without our sections pass.
    """

    def __init__(self) -> None:
        self._folders: set[str] = set()  # of the jobs of a sweep so far

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check for a key before Hydra saves the config; ``${hydra:...}`` can be read only once the job starts."""
        if has_sections(config):
            _refuse_keys(config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check the config that the jobs of a sweep share."""
        _refuse_keys(config)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Check the config of a job, and that no job of a sweep goes on from the checkpoint of another."""
        _refuse(config)
        if has_sections(config) and not OmegaConf.select(config, "trainer.val_only"):
            folder = os.path.abspath(str(OmegaConf.select(config, "trainer.default_local_dir")))
            if folder in self._folders:
                _end(
                    f"trainer.default_local_dir={folder} is that of an earlier job of this sweep: this one would go on "
                    "from its checkpoint, or write over its files. Fix: name what the jobs differ in, such as "
                    "trainer.default_local_dir='runs/alpha-${sd_search.alpha}'"
                )
            self._folders.add(folder)


def _refuse(config: DictConfig) -> None:
    if has_sections(config):
        try:
            _refuse_keys(config)
            for finding in hidden_files(config):
                if finding.fatal:
                    _end(finding.text)
                print(f"sd_search_verl: warning: {finding.text}", file=sys.stderr)
            refuse_other_method(config)
        except ConfigError as error:
            _end(str(error))
        except Exception as error:
            _end(
                f"the check of the method could not be made: {type(error).__name__}: {on_one_line(error)}\n{FIX}"
            )


def _refuse_keys(config: DictConfig) -> None:
    for finding in check_addresses(config):
        _end(finding.text)


def _end(message: str) -> None:
    sys.exit(f"sd_search_verl refuses to start:\n{message}")  # Hydra turns exceptions into warnings


def register() -> None:
    """Add the callback to Hydra's own default config, so that it is part of every config, however composed."""
    store = ConfigStore.instance()
    node = store.load("hydra/config.yaml").node
    target = f"{RefuseOtherMethod.__module__}.{RefuseOtherMethod.__qualname__}"
    OmegaConf.update(node, "callbacks.sd_search", {"_target_": target}, force_add=True)
    store.store(group="hydra", name="config", node=node, provider="sd_search_verl")
