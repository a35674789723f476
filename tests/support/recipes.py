"""Recipes run with a `python` that only writes down its arguments, and the configs that these compose."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.verl_adapter.preflight import check_keys, check_verl, compose

REPO = Path(__file__).resolve().parents[2]


def commands(recipe: str, *arguments: str, folder: Path, **environment: str) -> list[list[str]]:
    """What the recipe would run: every call of python, sd-search and ray, with its arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "calls"
    log.write_text("")
    for name in ("python", "sd-search", "ray"):
        shim = folder / name
        shim.write_text(f'#!/usr/bin/env bash\nprintf "%s\\0" {name} "$@" >> {log}; printf "\\n" >> {log}\n')
        shim.chmod(0o755)
    done = subprocess.run(
        [REPO / "recipes" / recipe, *arguments],
        env={**os.environ, **environment, "PATH": f"{folder}:{os.environ['PATH']}"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [line.split("\0")[:-1] for line in log.read_text().splitlines()]


def trainings(recipe: str, *arguments: str, folder: Path) -> list[list[str]]:
    """The arguments of every main_ppo that the recipe would start."""
    found = []
    for call in commands(recipe, *arguments, folder=folder):
        if "verl.trainer.main_ppo" in call:
            found.append(call[call.index("verl.trainer.main_ppo") + 1 :])
    return found


@cache
def composed(*arguments: str) -> DictConfig:
    return compose(arguments)


def wrong_with(config: DictConfig) -> list[str]:
    """What verl's own start-up checks, its dataclasses and ours say against a config."""
    from verl.utils.config import omega_conf_to_dataclass

    for section in ("actor_rollout_ref.actor", "actor_rollout_ref.rollout", "algorithm"):
        omega_conf_to_dataclass(OmegaConf.select(config, section))
    return [finding.found for finding in (*check_verl(config), *check_keys(config)) if not finding.ok]


def differing(one: DictConfig, other: DictConfig) -> set[str]:
    """Dotted names of the values in which two configs differ."""

    def flat(value: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix[:-1]: value}
        return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}{key}.").items()}

    left, right = (flat(OmegaConf.to_container(config, resolve=True)) for config in (one, other))
    return {name for name in left.keys() | right.keys() if left.get(name) != right.get(name)}
