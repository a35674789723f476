"""Gradients of one mini-batch through verl's actor, of a small untied model of random weights.

The rollouts have recorded lengths, their documents are masked, and the ratios of the first update are 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import response_from_nested

from benchmarks import models
from benchmarks.cost import actor, trajectories
from benchmarks.shapes import Shape
from sd_search_verl.verl_adapter.actor.worker import SDActorRolloutRefWorker
from sd_search_verl.verl_adapter.fields import MEASURE_GRAD_SHARE, nested

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = Shape(4, 128, 512, 4, 2, 2048, False, 32)
DOCUMENTS, AFTER = 470, 20
"""Tokens of a search's documents in the recorded trajectories (median), and at least that many after them."""


class Engine:
    """verl's actor in one type, and gradients of one mini-batch of rollouts."""

    def __init__(self, model: Path, dtype: str, rollouts: Sequence[trajectories.Rollout], seed: int) -> None:
        setting = actor.Setting(DEVICE, dtype)
        overrides = [
            "actor_rollout_ref.actor.use_kl_loss=False",
            "actor_rollout_ref.actor.fsdp_config.model_dtype=fp32",  # master weights; computed in ``dtype``
        ]
        actor.single_rank()
        self.worker = SDActorRolloutRefWorker(
            config=actor.configuration(setting, model, len(rollouts), overrides), role="actor"
        )
        self.worker.init_model()
        self.engine = self.worker.actor.engine
        self.rollouts = rollouts
        self.advantages = _advantages(len(rollouts), seed)
        self.mask = [_policy_mask(rollout.lengths) for rollout in rollouts]
        self.old = self._log_probs()

    def gradient(self, alpha: float, policy: bool = True) -> Tensor:
        """Return the update's gradient, flat, in fp64; without ``policy`` that of alpha * L_SD alone."""
        found: list[Tensor] = []

        def record() -> float:
            found.extend(
                _full(parameter.grad).double().flatten() for parameter in self.engine.module.parameters()
            )
            return 0.0

        step, self.engine.optimizer_step = self.engine.optimizer_step, record
        try:
            self.metrics = self.update(alpha, policy)
        finally:
            self.engine.optimizer_step = step
            self.engine.optimizer_zero_grad()
        return torch.cat(found)

    def update(self, alpha: float, policy: bool = True, measure: bool = False) -> dict[str, Any]:
        """Run verl's update and return its metrics."""
        batch = self._batch(alpha)
        batch["old_log_probs"] = self.old
        batch["advantages"] = batch["advantages"] * float(policy)
        tu.assign_non_tensor(
            batch, calculate_entropy=False, compute_loss=True, **{MEASURE_GRAD_SHARE: measure}
        )
        return dict(tu.get(self.worker.update_actor(batch), "metrics"))

    def _log_probs(self) -> Tensor:
        batch = self._batch(0.0)
        tu.assign_non_tensor(batch, calculate_entropy=False, compute_loss=False)
        return response_from_nested(self.worker.compute_log_prob(batch)["log_probs"], batch["response_mask"])

    def _batch(self, alpha: float) -> Any:
        batch = actor.batch_of(self.rollouts, alpha)
        advantages = [
            torch.full(mask.shape, value) for mask, value in zip(self.mask, self.advantages, strict=True)
        ]
        for name, values in {
            "advantages": advantages,
            "response_mask": self.mask,
            "loss_mask": self.mask,
        }.items():
            batch[name] = nested(values)
        return batch


def save_model(folder: Path, seed: int) -> Path:
    """Write the model, whose next-token distributions are far from uniform."""
    return models.save_model(SHAPE, folder, seed=seed, head_scale=8.0)


def draw_rollouts(groups: int, seed: int) -> list[trajectories.Rollout]:
    """Return five rollouts of each of so many questions."""
    drawn = trajectories.draw_groups(trajectories.LENGTHS, groups, 5, seed=seed)
    return trajectories.rollouts(drawn, SHAPE.vocab, seed=seed)


def _advantages(count: int, seed: int) -> list[float]:
    """GRPO's, of outcomes 0 and 1 in groups of five; no group is all one outcome."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count // 5):
        right = int(torch.randint(1, 5, (), generator=draw))
        outcome = torch.zeros(5)
        outcome[torch.randperm(5, generator=draw)[:right]] = 1.0
        found += ((outcome - outcome.mean()) / outcome.std()).tolist()
    return found


def _policy_mask(lengths: trajectories.Lengths) -> Tensor:
    """Return 1 for the policy's tokens, 0 for the documents behind each query and its tag."""
    mask = torch.ones(lengths.response, dtype=torch.long)
    next_starts = [*(start for start, _ in lengths.spans), lengths.response][1:]
    for (_, query_end), end in zip(lengths.spans, next_starts, strict=False):  # a rollout may have no query
        first = query_end + 3
        mask[first : max(first, min(first + DOCUMENTS, end - AFTER))] = 0
    return mask


def _full(tensor: Any) -> Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()
