"""One step of training: rollouts, the teacher behind the block, and one on-policy update of L_GRPO + alpha L_SD.

Block, teacher rows, divergence, its mean over query tokens, advantage and policy loss are the package's own functions.
Rollouts of groups with equal rewards have advantage 0: of them only the tokens up to the last query token are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.world.config import TrainConfig
from benchmarks.world.reference import distillation_loss, grpo_advantages, grpo_loss
from sd_search_verl.config import SDSearchConfig
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs, TeacherRow, build_teacher_inputs
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.rollout.types import Rollout

MICRO_BATCH = 5
CLIPPING = TrainConfig()


@dataclass(frozen=True)
class Item:
    """A rollout of the update, with its advantage and the teacher's rows; ``kept`` tokens of its response are read."""

    rollout: Rollout
    advantage: float
    inputs: TeacherInputs
    kept: int

    @property
    def row(self) -> list[int]:
        """Return the student's tokens."""
        return [*self.rollout.prompt.token_ids, *self.rollout.response_ids[: self.kept]]

    @property
    def policy_positions(self) -> list[int]:
        """Return the places of the logits of the policy's tokens."""
        start = len(self.rollout.prompt.token_ids) - 1
        return [start + j for j in range(self.kept) if self.rollout.response_mask[j]]

    @property
    def query_positions(self) -> list[int]:
        """Return those of the scored query tokens."""
        return [at for row in self.inputs.rows for at in row.student_positions]


@dataclass
class Losses:
    """Sums of an update: L_GRPO, L_SD, and the norm of the gradient."""

    grpo: float = 0.0
    sd: float = 0.0
    grad_norm: float = 0.0


def items(
    batch: Sequence[Rollout], group: int, method: SDSearchConfig, tokenizer: Any, seed: int
) -> list[Item]:
    """Return what an update reads of a batch of whole groups that have their rewards."""
    advantages = grpo_advantages(torch.tensor([rollout.reward for rollout in batch]), group).tolist()
    inputs = (
        build_teacher_inputs(
            batch, method, tokenizer, lambda messages: encode_messages(messages, tokenizer), seed
        )
        if method.alpha
        else [TeacherInputs([], 1.0, [], 0)] * len(batch)
    )
    found = []
    for rollout, advantage, item in zip(batch, advantages, inputs, strict=True):
        scored = max((end for _, end in rollout.spans), default=0) if item.rows else 0
        kept = len(rollout.response_ids) if advantage else scored
        if kept:
            found.append(Item(rollout, advantage, item, kept))
    return found


def update(
    policy: Any,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[Rollout],
    chosen: Sequence[Item],
    method: SDSearchConfig,
) -> Losses:
    """Update ``policy``, in fp32 under bf16 autocast, once."""
    tokens = sum(sum(rollout.response_mask) for rollout in batch)
    trajectories = sum(bool(item.query_positions) for item in chosen)
    losses = Losses()
    for part in micro_batches(chosen):
        width = max(len(item.row) for item in part)
        taught = teacher(policy, [item.inputs.rows for item in part], width)
        flipped = teacher(policy, [item.inputs.flipped for item in part], width)
        hidden = _hidden(policy, [item.row for item in part], width)
        grpo = _grpo(policy, hidden, part, tokens)
        sd = torch.zeros((), device=policy.device)
        if taught is not None:
            student = _logits(policy, hidden, [item.query_positions for item in part])
            mean = distillation_loss(student, taught, [item.inputs for item in part], method, flipped)
            sd = mean * sum(bool(item.query_positions) for item in part) / trajectories
        (grpo + method.alpha * sd).backward()
        losses.grpo += float(grpo.detach())
        losses.sd += float(sd.detach())
    for parameter in policy.parameters():
        if parameter.grad is None:  # no group has an advantage: AdamW's momentum moves on
            parameter.grad = torch.zeros_like(parameter)
    losses.grad_norm = float(torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0))
    optimizer.step()
    optimizer.zero_grad()
    return losses


def micro_batches(chosen: Sequence[Item]) -> list[list[Item]]:
    """Return items of like length, those with an advantage apart: GRPO's batches are the same with and without L_SD."""
    found = []
    for useful in (True, False):
        of_kind = [item for item in chosen if bool(item.advantage) == useful]
        of_kind.sort(key=lambda item: len(item.row))
        found += [of_kind[start : start + MICRO_BATCH] for start in range(0, len(of_kind), MICRO_BATCH)]
    return found


def teacher(policy: Any, rows: Sequence[Sequence[TeacherRow]], width: int) -> Tensor | None:
    """Return logits ``[M, V]`` at the scored tokens of rows padded to ``width`` at least; None without any.

    Without a block the rows are padded as the student's, so that the logits are its own to the last bit.
    """
    flat = [row for of_rollout in rows for row in of_rollout]
    if not flat:
        return None
    width = max(width, *(len(row.input_ids) for row in flat))
    with torch.no_grad():
        hidden = _hidden(policy, [row.input_ids for row in flat], width)
        return _logits(policy, hidden, [row.teacher_positions for row in flat])


def _hidden(policy: Any, rows: Sequence[Sequence[int]], width: int) -> Tensor:
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=policy.device)
    with torch.autocast(policy.device.type, torch.bfloat16):
        hidden: Tensor = policy.model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden


def _logits(policy: Any, hidden: Tensor, positions: Sequence[Sequence[int]]) -> Tensor:
    chosen = torch.cat([row[list(at)] for row, at in zip(hidden, positions, strict=True)])
    with torch.autocast(policy.device.type, torch.bfloat16):
        logits: Tensor = policy.lm_head(chosen)
    return logits.float()


def _grpo(policy: Any, hidden: Tensor, part: Sequence[Item], tokens: int) -> Tensor:
    """Return the part's share of the mean over the batch's ``tokens`` policy tokens; on-policy, so the ratio is 1."""
    useful = [(row, item) for row, item in zip(hidden, part, strict=True) if item.advantage]
    if not useful:
        return torch.zeros((), device=policy.device)
    positions = [item.policy_positions for _, item in useful]
    logits = _logits(policy, torch.stack([row for row, _ in useful]), positions)
    following = torch.tensor(
        [item.row[at + 1] for (_, item), of_row in zip(useful, positions, strict=True) for at in of_row],
        device=policy.device,
    )
    log_probs = logits.log_softmax(-1).gather(-1, following[:, None])[:, 0]
    counts = torch.tensor([len(at) for at in positions])
    advantages = torch.tensor([item.advantage for _, item in useful]).repeat_interleave(counts)
    loss = grpo_loss(log_probs, log_probs.detach(), advantages.to(policy.device), CLIPPING)
    return loss * len(following) / tokens
