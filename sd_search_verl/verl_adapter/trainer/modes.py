"""``trainer.v1.trainer_mode``: the method on each of verl's trainers.

sd_search                  rollouts and updates take turns on the same devices
sd_search_colocate_async   the same devices; rollouts that are late go on in the next step, under newer weights
sd_search_separate_async   devices for rollouts, which never stop, and devices for updates
"""

from __future__ import annotations

import logging
from typing import Any

from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from sd_search_verl.verl_adapter.actor.worker import SDDetachActorWorker
from sd_search_verl.verl_adapter.rollout.server_client import ResumingServerClient
from sd_search_verl.verl_adapter.trainer.mixin import SDSearchMixin


@register_trainer("sd_search")
class SDSearchTrainer(SDSearchMixin, PPOTrainerSync):
    """The method on verl's synchronous trainer."""


@register_trainer("sd_search_colocate_async")
class SDSearchColocateAsyncTrainer(SDSearchMixin, PPOTrainerColocateAsync):
    """The method on verl's asynchronous trainer with shared devices."""

    def get_llm_client(self) -> Any:
        return self.llm_server_manager.get_client(client_cls=ResumingServerClient)


@register_trainer("sd_search_separate_async")
class SDSearchSeparateAsyncTrainer(SDSearchMixin, PPOTrainerSeparateAsync):
    """The method on verl's asynchronous trainer with devices of its own for rollouts."""

    worker_cls = SDDetachActorWorker

    def _setup(self) -> None:
        if not self._enable_hybrid_replicas:
            # verl 0.9.1 gives its own log line about this an argument that no logger takes.
            logging.getLogger(PPOTrainerSeparateAsync.__module__).setLevel(logging.WARNING)
        super()._setup()

    def get_llm_client(self) -> Any:
        return self.standalone_server_manager.get_client(client_cls=ResumingServerClient)
