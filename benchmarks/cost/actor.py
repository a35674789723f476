"""verl's actor and reference workers in one process, without Ray and vLLM, on rollouts of given lengths."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("VERL_PLATFORM", "cpu")  # verl reads it when it is imported

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf, open_dict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.padding import response_from_nested

from benchmarks.cost.floor import now
from benchmarks.cost.peak import Peak
from benchmarks.cost.trajectories import Rollout
from benchmarks.models import save_model
from benchmarks.shapes import Shape
from sd_search_verl.distill import divergence, select_rows
from sd_search_verl.verl_adapter.actor import worker
from sd_search_verl.verl_adapter.actor.loss import SDSearchLoss
from sd_search_verl.verl_adapter.actor.teacher_pass import run_teacher_pass
from sd_search_verl.verl_adapter.actor.worker import SDActorRolloutRefWorker
from sd_search_verl.verl_adapter.fields import ALPHA, TeacherMiniBatch, nested, pack

LOSS_PARTS = (
    (TeacherMiniBatch, "with_slots"),
    (SDSearchLoss, "_on_logits"),
    (SDSearchLoss, "_add_sd_loss"),
    (divergence._Divergence, "backward"),
    (select_rows, "add_rows"),
)
"""What an update with the SD loss does beside GRPO's and the teacher pass."""
ALPHA_ON = 1.0e-3
"""Of a step with SD-Search; its cost does not depend on the value."""


@dataclass(frozen=True)
class Setting:
    """How the workers run.

    Attributes:
        dtype: ``fp32`` or ``bf16``.
        token_budget: tokens a micro-batch (dynamic batching), or None for ``micro_batch`` rows.
    """

    device: str
    dtype: str
    attention: str = "sdpa"
    remove_padding: bool = False
    checkpointing: bool = False
    token_budget: int | None = None
    micro_batch: int = 5

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of the weights."""
        return torch.bfloat16 if self.dtype == "bf16" else torch.float32


def configuration(setting: Setting, model: Path, rows: int, overrides: Sequence[str] = ()) -> Any:
    """Return verl's configuration for one process, as its command line would make it."""
    dynamic = setting.token_budget is not None
    budget = setting.token_budget or 1
    values = {
        "+sd_search": "default",
        "trainer.device": setting.device,
        "actor_rollout_ref.model.path": model,
        "actor_rollout_ref.model.use_remove_padding": setting.remove_padding,
        "+actor_rollout_ref.model.override_config.attn_implementation": setting.attention,
        "actor_rollout_ref.model.enable_gradient_checkpointing": setting.checkpointing,
        "actor_rollout_ref.actor.strategy": "fsdp2",
        "actor_rollout_ref.actor.use_torch_compile": setting.device == "cuda",
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile": setting.device == "cuda",
        "actor_rollout_ref.actor.fsdp_config.model_dtype": setting.dtype,
        "+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": setting.dtype,
        "actor_rollout_ref.actor.use_kl_loss": True,
        "actor_rollout_ref.actor.ppo_mini_batch_size": rows,
        "actor_rollout_ref.actor.use_dynamic_bsz": dynamic,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": budget,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": setting.micro_batch,
        "actor_rollout_ref.ref.strategy": "fsdp2",
        "actor_rollout_ref.ref.use_torch_compile": setting.device == "cuda",
        "actor_rollout_ref.ref.fsdp_config.use_torch_compile": setting.device == "cuda",
        "actor_rollout_ref.ref.fsdp_config.model_dtype": setting.dtype,
        "+actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype": setting.dtype,
        "actor_rollout_ref.ref.log_prob_use_dynamic_bsz": dynamic,
        "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": budget,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": setting.micro_batch,
        "actor_rollout_ref.rollout.name": "vllm",
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": dynamic,
        "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu": budget,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": setting.micro_batch,
    }
    with initialize_config_module("verl.trainer.config", version_base=None):
        composed = compose(
            "ppo_trainer", overrides=[*(f"{name}={value}" for name, value in values.items()), *overrides]
        )
    config: Any = OmegaConf.create(OmegaConf.to_container(composed, resolve=True))
    with open_dict(config):
        config.actor_rollout_ref.sd_search = config.sd_search
    return config.actor_rollout_ref


@dataclass(frozen=True)
class Measured:
    """Seconds of a step's parts, ``teacher`` contained in ``update``, and the peak of memory in GB."""

    old_log_prob: float
    reference: float
    update: float
    teacher: float
    peak_gb: float

    @property
    def actor(self) -> float:
        """All that the actor's part of a step takes."""
        return self.old_log_prob + self.reference + self.update


class Actor:
    """The two workers of a rank on random weights, and a step on them."""

    def __init__(self, shape: Shape, setting: Setting, rows: int, overrides: Sequence[str] = ()) -> None:
        single_rank()
        self.device = setting.device
        self._teacher_s = 0.0
        ram = Path("/dev/shm")  # 15 GB at the 7B shape are written and read twice
        place = ram if self.device == "cuda" and ram.exists() else None
        with tempfile.TemporaryDirectory(dir=place) as folder:
            model = save_model(shape, Path(folder), setting.torch_dtype, self.device)
            config = configuration(setting, model, rows, overrides)
            self.actor = SDActorRolloutRefWorker(config=config, role="actor")
            self.actor.init_model()
            self.reference = ActorRolloutRefWorker(config=config, role="ref")
            self.reference.init_model()
        setattr(worker, "run_teacher_pass", self._teacher_pass)  # noqa: B010  timed

    def pair(self, rows: Sequence[Rollout], skip_old_log_prob: bool = False) -> tuple[Measured, Measured]:
        """Run a step of GRPO alone, then one with SD-Search."""
        plain = self.step(rows, 0.0, skip_old_log_prob)
        return plain, self.step(rows, ALPHA_ON, skip_old_log_prob)

    def step(self, rows: Sequence[Rollout], alpha: float, skip_old_log_prob: bool = False) -> Measured:
        """Run one step of verl's actor part on these rollouts."""
        memory = Peak(self.device)
        batch = batch_of(rows, alpha)
        mask = batch["response_mask"]

        def log_probs(compute: Any, entropy: bool) -> Tensor:
            tu.assign_non_tensor(batch, calculate_entropy=entropy, compute_loss=False)
            return response_from_nested(compute(batch)["log_probs"], mask)

        old, old_s = self._timed(
            lambda: None if skip_old_log_prob else log_probs(self.actor.compute_log_prob, True)
        )
        ref, ref_s = self._timed(lambda: log_probs(self.reference.compute_ref_log_prob, False))
        batch["old_log_probs"] = ref if old is None else old
        batch["ref_log_prob"] = ref
        tu.assign_non_tensor(batch, calculate_entropy=False, compute_loss=True)
        self._teacher_s = 0.0
        _, update_s = self._timed(lambda: self.actor.update_actor(batch))
        return Measured(old_s, ref_s, update_s, self._teacher_s, memory.read())

    def loss_seconds(self, rows: Sequence[Rollout]) -> float:
        """Return the seconds of the SD loss alone in one update, forward and backward, each part waited for."""
        spent: list[float] = []

        def timed(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any, **options: Any) -> Any:
                result, seconds = self._timed(lambda: function(*arguments, **options))
                spent.append(seconds)
                return result

            return run

        with ExitStack() as stack:
            for owner, name in LOSS_PARTS:
                stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name))))
            self.step(rows, ALPHA_ON, skip_old_log_prob=True)
        return sum(spent)

    def profile_teacher(self, rows: Sequence[Rollout]) -> str:
        """Return a table of what the device does in the teacher passes of one update, the longest first."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] if self.device == "cuda" else []
        profiler = torch.profiler.profile(activities=activities)

        def profiled(*arguments: Any) -> Any:
            with profiler:
                targets = run_teacher_pass(*arguments)
                now(self.device)
            return targets

        with mock.patch.object(worker, "run_teacher_pass", profiled):
            self.step(rows, ALPHA_ON, skip_old_log_prob=True)
        return str(
            profiler.key_averages().table(
                sort_by=f"self_{self.device}_time_total", row_limit=40, max_name_column_width=60
            )
        )

    def _teacher_pass(self, *arguments: Any) -> Any:
        targets, seconds = self._timed(lambda: run_teacher_pass(*arguments))
        self._teacher_s += seconds
        return targets

    def _timed(self, run: Callable[[], Any]) -> tuple[Any, float]:
        start = now(self.device)
        result = run()
        return result, now(self.device) - start


def batch_of(rows: Sequence[Rollout], alpha: float) -> Any:
    """Return what verl's workers take of these rollouts, with the method's fields where alpha is not 0."""
    sequences = [torch.tensor(row.prompt_ids + row.response_ids) for row in rows]
    responses = [torch.tensor(row.response_ids) for row in rows]
    advantages = torch.randn(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    ones = [torch.ones_like(response) for response in responses]
    tensors = {
        "input_ids": nested(sequences),
        "position_ids": nested([torch.arange(len(sequence)) for sequence in sequences]),
        "prompts": nested([torch.tensor(row.prompt_ids) for row in rows]),
        "responses": nested(responses),
        "response_mask": nested(ones),
        "loss_mask": nested(ones),
        "advantages": nested([torch.full((len(r),), a) for r, a in zip(responses, advantages, strict=True)]),
    }
    if alpha:
        packed = [pack(row.teacher) for row in rows]
        tensors |= {name: nested([item[name] for item in packed]) for name in packed[0]}
    return tu.get_tensordict(
        tensors,
        non_tensor_dict={
            "distillation_use_topk": False,
            "distillation_only": False,
            "global_batch_size": len(rows),
            "mini_batch_size": len(rows),
            "epochs": 1,
            "seed": 1,
            "dataloader_kwargs": {"shuffle": False},
            "temperature": 1.0,
            ALPHA: alpha,
        },
    )


def single_rank() -> None:
    """Set the environment of rank 0 of 1, for a worker in this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ.setdefault("MASTER_PORT", str(free.getsockname()[1]))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
