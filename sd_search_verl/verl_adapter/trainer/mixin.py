"""The method on any of verl's trainers: teacher rows before every actor update, run files that survive a kill, alarms.

:mod:`.modes` puts it on the synchronous trainer and on the two asynchronous ones.
"""

from __future__ import annotations

import logging
import time
from collections import ChainMap
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, open_dict
from torch import Tensor
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.debug import marked_timer

from sd_search_verl import protocol as protocols
from sd_search_verl.distill.schedule import alpha_at, is_measured, policy_weight_at
from sd_search_verl.files import FolderLock
from sd_search_verl.health.collapse import NAMES, WATCHED, Alarm, alarms
from sd_search_verl.health.non_finite import is_skipped_update
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs, build_teacher_inputs
from sd_search_verl.objectives.information_gain import GainInputs, build_gain_inputs
from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.retriever_client import identity
from sd_search_verl.rollout.versions import mask_stale
from sd_search_verl.runs import writer
from sd_search_verl.runs.console import format_step
from sd_search_verl.runs.resume import add_to_last_step, save_with_checkpoint, truncate_after
from sd_search_verl.verl_adapter.actor.gain import pack_gain
from sd_search_verl.verl_adapter.actor.loss import PREFIX
from sd_search_verl.verl_adapter.actor.worker import SDActorRolloutRefWorker
from sd_search_verl.verl_adapter.fields import ALPHA, MEASURE_GRAD_SHARE, MEASURE_LABELS, POLICY_WEIGHT, pack
from sd_search_verl.verl_adapter.preflight import refuse_bad_start
from sd_search_verl.verl_adapter.preflight.changed_options import keep_options, options_of
from sd_search_verl.verl_adapter.preflight.files import is_remote
from sd_search_verl.verl_adapter.preflight.schedule import refuse_schedule
from sd_search_verl.verl_adapter.rollout.tools import prompt_kwargs
from sd_search_verl.verl_adapter.settings import TRAINERS, read_health, read_sd_search, read_search
from sd_search_verl.verl_adapter.trainer import checkpoints, data_plane, step_metrics
from sd_search_verl.verl_adapter.trainer.non_finite_guard import stop_on_non_finite
from sd_search_verl.verl_adapter.trainer.traces import traces_of
from sd_search_verl.verl_adapter.trainer.updates import Update, pooled
from sd_search_verl.verl_adapter.trainer.validation import add_failed_sessions
from sd_search_verl.verl_adapter.trainer.worker_watch import watch

# A child of verl's logger, which is shown where the root logger is not.
logger = logging.getLogger("verl.sd_search")


class SDSearchMixin(PPOTrainer):
    """First base of a trainer, before verl's. docs/architecture.md lists what is added to each step of verl's loop."""

    worker_cls: type[SDActorRolloutRefWorker] = SDActorRolloutRefWorker

    def __init__(self, config: DictConfig) -> None:
        self._sd_search = read_sd_search(config)
        self._search = read_search(config)
        self._health = read_health(config)
        self._folder = Path(config.trainer.default_local_dir)
        if not (config.trainer.get("val_only", False) or is_remote(self._folder)):
            self._lock = FolderLock(self._folder, "trainer", "another training", wait_s=30)
        if config.trainer.resume_mode == "auto":
            buffered = TRAINERS.get(config.trainer.v1.trainer_mode) != "sync"
            checkpoints.point_to_whole_checkpoint(self._folder, buffered)
        refuse_bad_start(config)
        self._options = options_of(config)  # as the user gave them
        with open_dict(config):
            # verl compares this string in many places; all but the trainer's class is its own mode.
            config.trainer.v1.trainer_mode = TRAINERS[config.trainer.v1.trainer_mode]
            # Workers receive this part of the config only.
            config.actor_rollout_ref.sd_search = config.sd_search
        super().__init__(config)
        self._batch: Any = None  # of the current step, after its update
        self._metrics: dict[str, Any] = {}  # of the current step, so far
        # Place of each question that is not yet trained on, by verl's uid.
        self._questions: dict[str, int] = {}
        self._places = count()
        self._updates: list[Update] = []  # of the current step
        self._search_error = ""  # the last one that was logged
        self._history: list[dict[str, float]] = []
        self._alarmed: set[str] = set()
        self._began = 0.0
        self._retriever: identity.Identity = {}  # of the servers, at the start
        self._prompt_kwargs = prompt_kwargs(config)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in (Role.Actor, Role.ActorRollout, Role.ActorRolloutRef):
            if role in self.role_worker_mapping:
                self.role_worker_mapping[role] = ray.remote(self.worker_cls)

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        refuse_schedule(self.config, len(self.train_dataset))

    def fit(self, agent_loop_manager: Any) -> None:
        watch(self.replay_buffer, agent_loop_manager)
        super().fit(agent_loop_manager)

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.trainer_mode != "sync":
            data_plane.drop_trained()
        if self.config.trainer.get("val_only", False):
            return  # no training, so the run files stay unchanged
        resumed = self.global_steps > 0
        self._retriever = identity.identify(self._search.retriever_urls)
        identity.require_same(self._folder, self._retriever, resumed)
        keep_options(self._folder, self._options, resumed)
        checkpoint = checkpoints.folder_of(self._folder, self.global_steps)
        self._history = truncate_after(self._folder, self.global_steps, checkpoint)

    def _save_checkpoint(self) -> None:
        self._lock.check()  # verl would make a folder anew
        checkpoint = checkpoints.before_saving(self._folder, self.global_steps)
        # The step's line in metrics.jsonl is due after weight synchronisation and validation.
        metrics = dict(self._metrics)
        timing = {**self.timing_raw, "step": time.perf_counter() - self._began}
        epoch = (self.global_steps - 1) // self.steps_per_epoch
        self._compute_step_metrics(self._batch, metrics, timing, self.global_steps, epoch)
        save_with_checkpoint(checkpoint, self.global_steps, metrics)
        super()._save_checkpoint()
        checkpoints.remove_surplus(self._folder, self.global_steps, self.config.trainer)

    def on_step_begin(self) -> None:
        super().on_step_begin()
        self._began = time.perf_counter()

    def _submit_batch_to_rollout(self, batch: Any) -> int:
        self._questions.update({uid: next(self._places) for uid in batch["uid"]})
        return super()._submit_batch_to_rollout(batch)

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        self._updates = []
        self._batch, self._metrics = super().step(metrics, timing_raw), metrics
        groups = self.config.data.train_batch_size
        if len(self._updates) > 1:
            metrics.update(pooled(self._updates, partial(self._rollout_metrics, groups=groups)))
        step_metrics.count_replaced_groups(metrics, self.config.actor_rollout_ref.rollout.n, groups)
        for key in self._batch.keys:
            self._questions.pop(key.rsplit("_", 2)[0], None)
        return self._batch

    def _balance_batch(self, batch: Any, metrics: dict[str, Any], **options: Any) -> Any:
        data_plane.sort_rollouts(batch, self._questions)
        return super()._balance_batch(batch, metrics, **options)

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        alpha = alpha_at(self.global_steps, self._sd_search)
        step, ours = self._read_step(batch, alpha)
        traced = self._select_traced(step)
        inputs: list[TeacherInputs] | None = None
        shown = not self._sd_search.hindsight.without_labels()
        measured = shown and self._is_measured(self._sd_search.labels_every)
        if alpha > 0 or self._sd_search.information_gain:
            with marked_timer("sd_search_prepare", self.timing_raw):
                batch, inputs = self._prepare(batch, step, alpha, traced, measured)
        if inputs is not None:
            ours.update(step_metrics.prepared_metrics(inputs))
        batch.extra_info[ALPHA] = alpha
        batch.extra_info[POLICY_WEIGHT] = policy_weight_at(self.global_steps, self._sd_search)
        batch.extra_info[MEASURE_LABELS] = measured
        # With use=advantage L_SD has no gradient of its own.
        of_loss = self._sd_search.use == "loss"
        batch.extra_info[MEASURE_GRAD_SHARE] = of_loss and self._is_measured(self._sd_search.grad_share_every)
        batch = super()._update_actor(batch, metrics)
        step_metrics.rename_worker_metrics(metrics, self.timing_raw)
        step_metrics.require_distilled(inputs or [], metrics)
        metrics.update(ours | {"health/skipped_updates": float(is_skipped_update(metrics))})
        self._updates.append(Update(step, inputs, metrics))
        if self._health.stop_on_non_finite:
            stop_on_non_finite(self._folder, self.global_steps, step, batch, metrics)
        metrics.update(self._write_traces(step, inputs, traced))
        return batch

    def _prepare(
        self, batch: Any, step: data_plane.StepRollouts, alpha: float, traced: list[int], measured: bool
    ) -> tuple[Any, list[TeacherInputs] | None]:
        """Write the rows that the teacher reads; return the batch that lists them, and the method's inputs."""
        config, inputs = self._sd_search, None
        packed: list[dict[str, Tensor]] = [{} for _ in step.rollouts]
        blank: dict[str, Tensor] = {}
        if alpha > 0:
            fresh = mask_stale(step.rollouts, self._policy_version, config.max_staleness)
            inputs = build_teacher_inputs(
                fresh, config, self.tokenizer, self._encode, self.global_steps, measured
            )
            blank |= pack(TeacherInputs([], 0.0, [], 0))
            for place, (fields, item) in enumerate(zip(packed, inputs, strict=True)):
                fields |= pack(item, place if place in traced else -1)
        if config.information_gain:
            protocol = protocols.get(self._search.protocol)
            gain = build_gain_inputs(step.rollouts, self.tokenizer, protocol, seed=self.global_steps)
            blank |= pack_gain(GainInputs([], [], []))
            for fields, found in zip(packed, gain, strict=True):
                fields |= pack_gain(found)
        return data_plane.write_fields(batch, step.rows, packed, blank), inputs

    def _step_once(self, metrics: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        batch = super()._step_once(metrics, *arguments, **options)
        if self.global_steps < self.config.trainer.critic_warmup:  # then verl does not update the actor
            step, ours = self._read_step(batch, alpha=0.0)
            metrics.update(ours)
            self._updates.append(Update(step, None, metrics))
            self._write_traces(step, None, self._select_traced(step))
        return batch

    @property
    def _policy_version(self) -> int:
        """Version of the weights before the step's update: the step that made them."""
        return self.global_steps - 1

    # verl's separate mode updates several times a step; the first update (local_trigger_step 0) stands for the step.

    def _is_measured(self, every: int | None) -> bool:
        return self.local_trigger_step == 0 and is_measured(self.global_steps, every, self._sd_search)

    def _select_traced(self, step: data_plane.StepRollouts) -> list[int]:
        limit = self._search.traces_per_step if self.local_trigger_step == 0 else 0
        return writer.select_traced(step.rollouts, limit)

    def _read_step(self, batch: Any, alpha: float) -> tuple[data_plane.StepRollouts, dict[str, float]]:
        """Return the step's rollouts and their metrics; stop the run if too many of its searches failed, or if
        they were answered from another index."""
        step = data_plane.read_rollouts(batch, self._questions)
        step_metrics.check_failure_rate(step.rollouts, self._search)
        error = step_metrics.most_frequent_error(step.rollouts)
        if error and error != self._search_error:  # once for each
            logger.warning("step %d: searches failed, most often: %s", self.global_steps, error)
            self._search_error = error
        identity.require_unchanged(self._search.retriever_urls, self._retriever)
        groups = self.config.data.train_batch_size // self.parameter_sync_step
        return step, {f"{PREFIX}alpha": alpha, **self._rollout_metrics(step, groups)}

    def _rollout_metrics(self, step: data_plane.StepRollouts, groups: int) -> dict[str, float]:
        group_size, hindsight = self.config.actor_rollout_ref.rollout.n, self._sd_search.hindsight
        return step_metrics.rollout_metrics(step, group_size, groups, hindsight, self._policy_version)

    def _write_traces(
        self, step: data_plane.StepRollouts, inputs: list[TeacherInputs] | None, traced: list[int]
    ) -> dict[str, float]:
        """Append the step's traces, and return the metrics that are known of traced rollouts only."""
        credits = ChainMap(*self.actor_rollout_wg.take_credits()) if inputs is not None and traced else {}
        retriever = identity.describe(self._retriever)
        traces = traces_of(self.global_steps, step, inputs, traced, credits, self.tokenizer, retriever)
        writer.append_traces(self._folder, traces)
        return step_metrics.jsd_by_staleness(traces, self._policy_version)

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        self._lock.check()
        found = self._compute_step_metrics(batch, metrics, timing_raw, global_steps, epoch)
        writer.append_metrics(self._folder, global_steps, metrics)
        self._history.append({name: metrics[name] for name in WATCHED if name in metrics})
        for alarm in found:
            if alarm.name not in self._alarmed:
                logger.warning("step %d: health alarm %s: %s", global_steps, alarm.name, alarm.text)
        self._alarmed = {alarm.name for alarm in found}
        print(format_step({"step": global_steps, **metrics}), flush=True)

    def _compute_step_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> list[Alarm]:
        """Add verl's metrics of the step and the alarms to ``metrics``."""
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        found = alarms([*self._history, metrics], self._health)
        raised = {alarm.name for alarm in found}
        metrics["health/alarms"] = float(len(raised))
        metrics.update({f"health/alarm/{name}": float(name in raised) for name in NAMES})
        return found

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list[Any]],
        sample_turns: list[int],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        *counted, failed = add_failed_sessions(
            data_sources, sample_uids, reward_extra_infos_dict, expected_acc_counts or {}
        )
        found = super()._val_metrics_update(*counted, sample_turns, expected_acc_counts=expected_acc_counts)
        found["val-aux/failed_sessions"] = float(failed)
        if not self._began and not self.config.trainer.get("val_only", False):  # before the first step
            add_to_last_step(self._folder, self.global_steps, found)
        return found

    def _encode(self, messages: Messages) -> list[int]:
        return encode_messages(messages, self.tokenizer, self._prompt_kwargs)
