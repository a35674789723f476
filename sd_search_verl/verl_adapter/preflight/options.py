"""The config itself: accepted by verl and by us, without unknown keys."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.metadata
import io
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.cpu import accelerator_visible, patches
from sd_search_verl.verl_adapter.preflight.command import compose
from sd_search_verl.verl_adapter.settings import read_health, read_sd_search, read_search


def check_verl(config: DictConfig) -> Iterator[Finding]:
    """Check our sections and run verl's own start-up checks."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    def validate(config: DictConfig) -> None:
        with _named_vllm():
            validate_config(config, need_reference_policy(config), need_critic(config))

    for name, action in {
        "sd_search section": read_sd_search,
        "search section": read_search,
        "health section": read_health,
        "verl's own checks": validate,
    }.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # verl prints that all is well
                action(config)
        except Exception as error:
            yield INVALID.finding(name=name, error=str(error).strip())
        else:
            yield Finding(name, True, "accepted")


@contextlib.contextmanager
def _named_vllm() -> Iterator[None]:
    """Let verl find vLLM's CPU build, which has another name, where no accelerator would run the config anyway."""
    original = importlib.metadata.version
    if not accelerator_visible():
        patches.vllm_version()
    try:
        yield
    finally:
        importlib.metadata.version = original


INVALID = Rule("{name}", "{error}", "change it as the message says")
UNKNOWN_KEY = Rule(
    "config key", "{path} is a key that neither verl nor this package reads", "{hint}", warns=True
)

# Sections whose keys are arguments of something else.
_FREE = {"ray_kwargs.ray_init", "reward.custom_reward_function", "hydra"}


def check_keys(config: DictConfig) -> Iterator[Finding]:
    """Check for keys that nothing reads: Hydra refuses them on the command line, but not in a config file.

    Plain values at the top, such as ``seed``, are the user's own variables.
    """
    stock = _stock()
    sections = [str(name) for name in config if isinstance(config._get_node(name), DictConfig)]
    unknown = [*_unknown(OmegaConf.masked_copy(config, sections), stock)]
    for path, known in unknown:
        near = difflib.get_close_matches(path.rsplit(".", 1)[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the keys there are {', '.join(sorted(known))}"
        yield UNKNOWN_KEY.finding(path=path, hint=hint)
    if not unknown:
        yield Finding("config keys", True, "all known")


@cache
def _stock() -> DictConfig:
    """Return verl's config with our sections, which nobody may change."""
    return compose(["+sd_search=default"])


def _unknown(config: DictConfig, stock: DictConfig, prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yield dotted keys of ``config`` that ``stock`` and its dataclass lack, each with the keys beside it."""
    known = {*map(str, stock), *_dataclass_fields(stock.get("_target_"))}
    for key in map(str, config):
        path = f"{prefix}{key}"
        if key not in known:
            yield path, known
        elif key in stock and path not in _FREE:
            ours, theirs = _section(config, key), _section(stock, key)
            # An empty section of verl's takes any key.
            if ours and theirs:
                yield from _unknown(ours, theirs, f"{path}.")


def _section(config: DictConfig, key: str) -> DictConfig | None:
    """Return the section ``key`` as it is written, or None if it is a value, an interpolation or null."""
    node = config._get_node(key)
    return (
        node
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation()
        else None
    )


def _dataclass_fields(target: str | None) -> set[str]:
    if not target:
        return set()
    module, _, name = target.rpartition(".")
    cls = getattr(importlib.import_module(module), name, None)
    return {field.name for field in fields(cls)} if is_dataclass(cls) else set()
