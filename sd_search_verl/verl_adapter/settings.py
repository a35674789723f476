"""Reading our sections out of verl's config, and refusing at start what verl cannot carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.config import ConfigError, HealthConfig, SDSearchConfig, SearchConfig, read_config

T = TypeVar("T", SDSearchConfig, SearchConfig, HealthConfig)

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
    if not isinstance(section, (Mapping, DictConfig)):
        # Hydra turns an unknown group into a plain string: then the plugin was not loaded where the config was made.
        found = "is missing" if section is None else f"is {section!r}, so the plugin was not loaded"
        raise ConfigError(
            f"the config section {name!r} {found}; {_ADD}. `sd-search doctor` checks the plugin"
        )
    return read_config(cls, OmegaConf.to_container(section, resolve=True), name)


def refuse_unsupported(config: DictConfig) -> None:
    """Check verl's own options.

    Raises:
        ConfigError: an option that does not go with the teacher pass or the loss, with the reason and the way out.
    """
    for path, bad, reason in _REFUSED:
        value = OmegaConf.select(config, path)
        if value is not None and bad(value):
            raise ConfigError(f"{path}={value} does not work with SD-Search: {reason}")


_REFUSED = [
    ("trainer.use_v1", lambda v: not v, "the legacy trainer has no plugin registry; use trainer.use_v1=True"),
    (
        "distillation.enabled",
        bool,
        "verl's own distillation uses the same hook on the logits, with another teacher; set it to False",
    ),
    (
        "actor_rollout_ref.model.use_fused_kernels",
        bool,
        "fused kernels never materialise the logits that are compared; set use_fused_kernels=False",
    ),
    (
        "actor_rollout_ref.actor.use_fused_kernels",
        bool,
        "fused kernels never materialise the logits that are compared; set use_fused_kernels=False",
    ),
    (
        "actor_rollout_ref.actor.fsdp_config.pad_to_length",
        bool,
        "verl refuses its logits hook together with static padding; set pad_to_length=False",
    ),
    (
        "actor_rollout_ref.actor.pad_to_length",
        bool,
        "verl refuses its logits hook together with static padding; set pad_to_length=False",
    ),
    (
        "actor_rollout_ref.actor.use_prefix_grouper",
        bool,
        "grouped prefixes change the packing that row positions refer to; set use_prefix_grouper=False",
    ),
    (
        "actor_rollout_ref.actor.strategy",
        lambda v: v not in ("fsdp", "fsdp2"),
        "the teacher pass is written for the FSDP engines; use actor.strategy=fsdp2 (or fsdp)",
    ),
    (
        "actor_rollout_ref.rollout.name",
        lambda v: v != "vllm",
        "turns end at stop strings, which only the vLLM rollout returns with their tokens; use rollout.name=vllm",
    ),
]
