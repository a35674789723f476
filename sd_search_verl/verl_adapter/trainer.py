"""``trainer.v1.trainer_mode=sd_search``: verl's synchronous trainer, with hindsight before every actor update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.debug import marked_timer

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.hindsight.prepare import TeacherInputs, prepare
from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.protocol.spans import token_bytes
from sd_search_verl.verl_adapter import data_plane, run_files, step_metrics
from sd_search_verl.verl_adapter.loss import PREFIX
from sd_search_verl.verl_adapter.settings import read_sd_search, read_search, refuse_unsupported
from sd_search_verl.verl_adapter.worker import ALPHA, SDActorRolloutRefWorker


def alpha_at(step: int, config: SDSearchConfig) -> float:
    """alpha of a training step, counted from 1: 0 during warm-up, constant after."""
    return 0.0 if step <= config.warmup_steps else config.alpha


@register_trainer("sd_search")
class SDSearchTrainer(PPOTrainerSync):
    """verl's loop, unchanged but for ``_update_actor`` (teacher rows) and ``_compute_metrics`` (run files)."""

    def __init__(self, config: DictConfig) -> None:
        refuse_unsupported(config)
        self._sd_search = read_sd_search(config)
        self._search = read_search(config)
        with open_dict(config):
            # verl compares this string in many places; everything but our class is the synchronous mode.
            config.trainer.v1.trainer_mode = "sync"
            # Workers receive this part of the config only.
            config.actor_rollout_ref.sd_search = config.sd_search
        super().__init__(config)
        self._folder = Path(config.trainer.default_local_dir)
        self._step: data_plane.StepRollouts | None = None
        self._inputs: list[TeacherInputs] | None = None

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in (Role.ActorRollout, Role.ActorRolloutRef):
            if role in self.role_worker_mapping:
                self.role_worker_mapping[role] = ray.remote(SDActorRolloutRefWorker)

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        self._step = step = data_plane.read_rollouts(batch)
        self._inputs = None
        found = step_metrics.search_metrics(step.rollouts, step.records)
        step_metrics.check_failure_rate(found, step.records, self._search)
        alpha = alpha_at(self.global_steps, self._sd_search)
        ours = {
            f"{PREFIX}alpha": alpha,
            **step_metrics.group_metrics(step.rollouts, self._sd_search.hindsight),
        }
        if alpha > 0:
            with marked_timer("sd_search_prepare", self.timing_raw):
                self._inputs = prepare(
                    step.rollouts, self._sd_search, self.tokenizer, self._encode, seed=self.global_steps
                )
                batch = data_plane.write_teacher_inputs(batch, step.rows, self._inputs)
            ours.update(step_metrics.prepared_metrics(self._inputs))
        batch.extra_info[ALPHA] = alpha
        batch = super()._update_actor(batch, metrics)
        self._lift(metrics)
        metrics.update(found | ours)
        return batch

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        run_files.append_metrics(self._folder, global_steps, metrics)
        if self._step is not None and self._search.traces_per_step:
            tokens = [
                [
                    piece.decode("utf-8", errors="replace")
                    for piece in token_bytes(r.response_ids, self.tokenizer)
                ]
                for r in self._step.rollouts
            ]
            run_files.append_traces(
                self._folder,
                global_steps,
                self._step.rollouts,
                self._step.records,
                self._step.scores,
                self._inputs,
                tokens,
                self._search.traces_per_step,
            )

    def _encode(self, messages: Messages) -> list[int]:
        kwargs = OmegaConf.to_container(
            OmegaConf.create(self.config.data.get("apply_chat_template_kwargs") or {})
        )
        return encode_messages(messages, self.tokenizer, kwargs)  # type: ignore[arg-type]

    def _lift(self, metrics: dict[str, Any]) -> None:
        """Our metrics come back from the workers under verl's ``actor/`` prefix; give them their own names."""
        theirs = f"actor/{PREFIX}"
        for name in [name for name in metrics if name.startswith(theirs)]:
            metrics[PREFIX + name.removeprefix(theirs)] = metrics.pop(name)
        if (seconds := metrics.pop(f"{PREFIX}teacher_s", None)) is not None:
            self.timing_raw["sd_search_teacher"] = seconds
