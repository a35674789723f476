"""verl's FSDP actor with the teacher pass: one teacher forward before each mini-batch update, by current weights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch.utils._pytree import tree_map_only
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import Dispatch, make_nd_compute_dataproto_dispatch_fn, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_torch_device
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.loss import token_weights
from sd_search_verl.distill.support import TeacherTargets
from sd_search_verl.objectives.moving_average import MovingAverage
from sd_search_verl.verl_adapter.actor.credit import CreditRecord, Values
from sd_search_verl.verl_adapter.actor.gain import add_information_gain
from sd_search_verl.verl_adapter.actor.grad_share import grad_share
from sd_search_verl.verl_adapter.actor.labels import contrast, label_metrics
from sd_search_verl.verl_adapter.actor.loss import PREFIX, SDLossInputs, SDSearchLoss, pool_mini_batches
from sd_search_verl.verl_adapter.actor.process_group import initialize_alone
from sd_search_verl.verl_adapter.actor.teacher_pass import reduce_over_ranks, run_teacher_pass
from sd_search_verl.verl_adapter.fields import (
    ALPHA,
    FLIPPED,
    MEASURE_GRAD_SHARE,
    MEASURE_LABELS,
    POLICY_WEIGHT,
    TeacherMiniBatch,
    by_slot,
)
from sd_search_verl.verl_adapter.settings import read_sd_search


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher says of one mini-batch.

    Attributes:
        flipped: the same behind inverted labels; None where nothing reads it.
        num_trajectories: with scored tokens, over all ranks.
        num_tokens: scored tokens over all ranks.
    """

    batch: TeacherMiniBatch
    targets: TeacherTargets
    flipped: TeacherTargets | None
    num_trajectories: int
    num_tokens: int


class SDTrainingWorker(TrainingWorker):
    """A training worker whose loss function is an :class:`SDSearchLoss`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._average = MovingAverage()
        # Of the current call of train_mini_batch.
        self._measured: dict[str, float] = {}
        self._credits: dict[int, Values] = {}
        self._scored_tokens: list[int] = []  # of each mini-batch that has any
        self._mini_batches = 0
        self._measure_grad_share = self._measure_labels = False

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="train"), blocking=False)
    def train_mini_batch(self, data: TensorDict) -> TensorDict:
        self._measured, self._credits, self._scored_tokens, self._mini_batches = {}, {}, [], 0
        self._measure_grad_share = tu.get(data, MEASURE_GRAD_SHARE, default=False)
        self._measure_labels = tu.get(data, MEASURE_LABELS, default=False)
        output = super().train_mini_batch(data)
        if output is not None:
            metrics = tu.get(output, "metrics")
            pool_mini_batches(metrics, self._scored_tokens, self._mini_batches)
            metrics.update({PREFIX + name: [value] for name, value in self._measured.items()})
        return output

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="train"), blocking=False)
    def train_batch(self, data: TensorDict) -> TensorDict:
        if not isinstance(self.loss_fn, SDSearchLoss):
            raise TypeError(f"the worker's loss function is {type(self.loss_fn).__name__}, not SDSearchLoss")
        config, start = self.loss_fn.config, time.perf_counter()
        self._mini_batches += 1
        group = self.engine.get_data_parallel_group()
        if config.information_gain:
            with self._train_mode(data):
                data = add_information_gain(self.engine, data, self._forward_settings(data), group, config)
        if config.teacher == "ema":
            with self._train_mode(data):
                self._average.update(self.engine.module, config.teacher_decay)
        taught = self._ask_teacher(data, config) if tu.get(data, ALPHA, default=0.0) else None
        if config.information_gain or taught is not None:
            get_torch_device().synchronize()  # once a mini-batch, for a time that means something
            seconds = time.perf_counter() - start
            self._measured["teacher_s"] = self._measured.get("teacher_s", 0.0) + seconds
        if taught is None:
            return super().train_batch(data)
        self._scored_tokens.append(taught.num_tokens)
        data = taught.batch.with_slots(data)
        tu.assign_non_tensor(data, distillation_use_topk=True)
        teacher = self._loss_inputs(taught, data, config)
        if self._measure_grad_share:
            with self._train_mode(data):
                share = grad_share(self.engine, self._with_options(data), self.loss_fn, teacher)
            if share is not None:  # else the next mini-batch is tried, where GRPO may have a gradient
                self._measure_grad_share = False
                self._measured["grad_share"] = share
        with self.loss_fn.with_teacher(teacher):
            output = super().train_batch(data)
        if teacher.credit is not None:
            self._keep_credit(teacher.credit, taught)
        return output

    def _ask_teacher(self, data: TensorDict, config: SDSearchConfig) -> TeacherOutput | None:
        """Run the teacher on a mini-batch; None without scored tokens on any rank, so that none waits for another."""
        batch = TeacherMiniBatch.read(data)
        counts = batch.tokens_per_trajectory
        group = self.engine.get_data_parallel_group()
        own = [int((counts > 0).sum()), int(counts.sum())]
        num_trajectories, num_tokens = reduce_over_ranks(own, dist.ReduceOp.SUM, group)
        if num_tokens == 0:
            return None
        with self._train_mode(data), self._teachers_weights(config):
            targets, flipped = self._run_teacher(batch, data, config), None
            if self._measure_labels or config.reads_flipped:
                flipped = self._run_teacher(TeacherMiniBatch.read(data, FLIPPED), data, config)
        return TeacherOutput(batch, targets, flipped, num_trajectories, num_tokens)

    def _loss_inputs(self, taught: TeacherOutput, data: TensorDict, config: SDSearchConfig) -> SDLossInputs:
        """Return what the loss reads: the targets of the configured form, and a record where credit is asked for."""
        batch, targets, flipped = taught.batch, taught.targets, taught.flipped
        recorded = self._measure_labels or bool((batch.traces >= 0).any())
        device, counts = get_device_id(), batch.tokens_per_trajectory
        credit = CreditRecord(int(counts.sum()), device) if recorded else None
        if config.target == "contrast" and flipped is not None:
            targets = contrast(targets, flipped)
        if config.gate == "labels" and flipped is not None:
            targets = replace(targets, flipped_log_prob=flipped.token_log_prob)
        return SDLossInputs(
            targets,
            by_slot(batch.student_positions).to(device),
            token_weights(counts, batch.weights).to(device),
            tu.get(data, ALPHA),
            taught.num_trajectories,
            taught.num_tokens,
            credit,
            tu.get(data, POLICY_WEIGHT, default=1.0),
        )

    def _keep_credit(self, credit: CreditRecord, taught: TeacherOutput) -> None:
        """Keep the credit of traced rollouts, and measure the labels on the step's first mini-batch."""
        batch = taught.batch
        # Keep the first PPO epoch's values: only there does the student equal the rollout policy.
        self._credits = credit.of(batch.traces, batch.tokens_per_trajectory) | self._credits
        if self._measure_labels and taught.flipped is not None:
            self._measure_labels = False
            group = self.engine.get_data_parallel_group()
            self._measured |= label_metrics(credit.credits(), taught.targets, taught.flipped, batch, group)

    def _train_mode(self, data: TensorDict) -> AbstractContextManager[Any]:
        return self.engine.train_mode(
            disable_auto_offload=tu.get(data, "disable_auto_offload", default=False)
        )

    @contextmanager
    def _teachers_weights(self, config: SDSearchConfig) -> Iterator[None]:
        if config.teacher == "live":  # a checkpoint may hold an average all the same
            yield
            return
        with self._average.in_place_of(self.engine.module):
            yield
            get_torch_device().synchronize()  # FSDP copies offloaded weights to the device in the background

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_checkpoint(self, local_path: str, *arguments: Any, **options: Any) -> None:
        super().save_checkpoint(local_path, *arguments, **options)
        if self._average.values is not None:
            torch.save(self._average.values, _average_file(local_path))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def load_checkpoint(self, local_path: str, *arguments: Any, **options: Any) -> None:
        file = _average_file(local_path) if local_path else None
        self._average.values = torch.load(file, map_location="cpu") if file and file.exists() else None
        super().load_checkpoint(local_path, *arguments, **options)

    def _run_teacher(
        self, batch: TeacherMiniBatch, data: TensorDict, config: SDSearchConfig
    ) -> TeacherTargets:
        group = self.engine.get_data_parallel_group()
        if config.target == "contrast":
            config = config.replace(top_k=None)  # a quotient of distributions needs all their entries
        return run_teacher_pass(self.engine, batch, self._forward_settings(data), group, config)

    def take_credits(self) -> dict[int, Values]:
        """Return the credit of this rank's traced rollouts in the last ``train_mini_batch``."""
        return self._credits

    def _with_options(self, data: TensorDict) -> TensorDict:
        """Fill in the options of verl's update that the batch leaves out, as verl's ``train_batch`` does."""
        present = set(data.keys())
        names = ("use_dynamic_bsz", "max_token_len_per_gpu", "micro_batch_size_per_gpu", "use_fused_kernels")
        options = {name: getattr(self.engine_config, name) for name in names}
        options["use_remove_padding"] = self.model_config.get("use_remove_padding", False)
        tu.assign_non_tensor(data, **{name: value for name, value in options.items() if name not in present})
        return data

    def _forward_settings(self, data: TensorDict) -> dict[str, Any]:
        """Return the options of the teacher's forward, those of verl's log-prob pass."""
        config = self.engine_config
        return {
            "temperature": tu.get(data, "temperature"),  # the student's logits are scaled by it too
            "use_remove_padding": self.model_config.get("use_remove_padding", False),
            "use_dynamic_bsz": config.use_dynamic_bsz,
            "max_token_len_per_gpu": config.infer_max_token_len_per_gpu,
            "micro_batch_size_per_gpu": config.infer_micro_batch_size_per_gpu,
        }


class SDActorRolloutRefWorker(ActorRolloutRefWorker):
    """verl's hybrid worker with our training worker as its actor."""

    actor_worker_cls = SDTrainingWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        initialize_alone()
        super().init_model()
        if self.actor is not None:
            loss: Any = SDSearchLoss(self.loss_fn, read_sd_search(self.config))  # type: ignore[has-type]
            self.loss_fn = loss
            self.actor.set_loss_fn(loss)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def take_credits(self) -> dict[int, Values]:
        """See :meth:`SDTrainingWorker.take_credits`."""
        return self.actor.take_credits()


class SDDetachActorWorker(SDActorRolloutRefWorker, DetachActorWorker):
    """The same for devices that only train: it can also put the weights of an earlier update back."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_model_to_cpu(self, n: int) -> None:
        get_torch_device().synchronize()  # offloaded weights may still be on their way
        super().save_model_to_cpu(n)
        # verl/utils/fsdp_utils.py (fsdp2_sharded_save_to_cpu) moves weights to the CPU, which copies none that are
        # there already: those of a CPU run, and offloaded ones. The next weights put back would change the saved ones.
        live = {_storage(parameter) for parameter in self.actor.engine.module.parameters()}
        self.cpu_saved_models[n] = tree_map_only(
            torch.Tensor,
            lambda saved: saved.clone() if _storage(saved) in live else saved,
            self.cpu_saved_models[n],
        )


def _average_file(checkpoint: str) -> Path:
    """Return the file of this rank's part of the moving average."""
    return Path(checkpoint) / f"teacher_average_rank_{dist.get_rank()}.pt"


def _storage(tensor: torch.Tensor) -> int:
    """Return the address of a tensor's memory, of a sharded one's the shard's."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.untyped_storage().data_ptr()
