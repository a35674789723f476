"""Our sections of verl's config, and the values of verl's own options that select our parts."""

from __future__ import annotations

from typing import TypeVar

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.config import ConfigError, HealthConfig, SDSearchConfig, SearchConfig, read_config

T = TypeVar("T", SDSearchConfig, SearchConfig, HealthConfig)

SECTIONS = ("sd_search", "search", "health")
TRAINER = "sd_search"
TRAINERS = {
    TRAINER: "sync",
    "sd_search_colocate_async": "colocate_async",
    "sd_search_separate_async": "separate_async",
}
"""Values of ``trainer.v1.trainer_mode`` that train with the method, and verl's own mode that each extends."""
AGENT_LOOP = "sd_search_agent"
REWARD = "pkg://sd_search_verl.scoring"

_ADD = (
    "add `+sd_search=default` to the command line, or `- sd_search: default` to the defaults of your config"
)


def read_sd_search(config: DictConfig) -> SDSearchConfig:
    """Return the checked ``sd_search`` section of verl's whole config, or of its ``actor_rollout_ref``."""
    return _read(SDSearchConfig, config, "sd_search")


def read_search(config: DictConfig) -> SearchConfig:
    """Return the checked ``search`` section of verl's whole config."""
    return _read(SearchConfig, config, "search")


def read_health(config: DictConfig) -> HealthConfig:
    """Return the checked ``health`` section of verl's whole config."""
    return _read(HealthConfig, config, "health")


def _read(cls: type[T], config: DictConfig, name: str) -> T:
    section = config.get(name)
    if not isinstance(section, DictConfig):
        # Hydra turns an unknown group into a plain string: then the plugin was not loaded where the config was made.
        found = "is missing" if section is None else f"is {section!r}, so the plugin was not loaded"
        raise ConfigError(
            f"the config section {name!r} {found}; {_ADD}. `sd-search doctor` checks the plugin"
        )
    return read_config(cls, OmegaConf.to_container(section, resolve=True), name)
