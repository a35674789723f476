"""Guards of verl's own trainers, for a program that calls ``run_ppo(config)`` without Hydra and its callback.

verl takes a trainer from its registry by ``trainer.v1.trainer_mode`` and gives it the whole config before anything is
loaded. In the place of every other trainer stands a subclass that first refuses a config with our sections.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, PPOTrainer

from sd_search_verl.verl_adapter.preflight.method import has_sections, refuse_other_method
from sd_search_verl.verl_adapter.settings import TRAINERS


def register() -> None:
    """Guard every trainer of the registry but this package's."""
    for name, trainer in TRAINER_REGISTRY.items():
        if name not in TRAINERS:
            TRAINER_REGISTRY[name] = guarded(trainer)


def guarded(trainer: type[PPOTrainer]) -> type[PPOTrainer]:
    """Return a subclass, of the same name, that refuses a config that holds our sections."""

    def __init__(self: PPOTrainer, config: DictConfig, *arguments: Any, **options: Any) -> None:
        if has_sections(config):
            refuse_other_method(config)
        trainer.__init__(self, config, *arguments, **options)

    named = {"__init__": __init__, "__module__": trainer.__module__, "__qualname__": trainer.__qualname__}
    return type(trainer.__name__, (trainer,), {**named, "__doc__": trainer.__doc__})
