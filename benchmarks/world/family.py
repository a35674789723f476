"""The other methods of the family for the reference: ``objectives/`` applied to a batch of rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs
from sd_search_verl.objectives.advantage import advantage_factors
from sd_search_verl.objectives.information_gain import build_gain_inputs, gains
from sd_search_verl.objectives.regularizer import penalties
from sd_search_verl.objectives.turns import row_numbers, turn_numbers
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.world.text import PROTOCOL


@torch.no_grad()
def credit(student_logits: Tensor, teacher_logits: Tensor, inputs: Sequence[TeacherInputs]) -> Tensor:
    """Return ``[M]``, log P_teacher - log P_student of each scored token."""
    rows = [row for item in inputs for row in item.rows]
    scored = [row.input_ids[at + 1] for row in rows for at in row.teacher_positions]
    tokens = torch.tensor(scored, device=teacher_logits.device)
    difference = teacher_logits.log_softmax(-1) - student_logits.log_softmax(-1)
    return difference.gather(-1, tokens.view(-1, 1))[:, 0]


def policy_mask(batch: Sequence[Rollout]) -> Tensor:
    """Return ``[B, T]``, True at policy tokens of the responses."""
    width = max(len(rollout.response_mask) for rollout in batch)
    rows = [rollout.response_mask + [0] * (width - len(rollout.response_mask)) for rollout in batch]
    return torch.tensor(rows, dtype=torch.bool)


def teacher_factors(
    advantages: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    batch: Sequence[Rollout],
    inputs: Sequence[TeacherInputs],
    alpha: float,
    method: SDSearchConfig,
) -> Tensor:
    """Return ``[N]``, the factors of ``use=advantage``."""
    mask = policy_mask(batch)
    gaps, scored = torch.zeros(mask.shape), torch.zeros(mask.shape, dtype=torch.bool)
    at = [
        (number, position - len(rollout.prompt.token_ids) + 1)
        for number, (rollout, item) in enumerate(zip(batch, inputs, strict=True))
        for row in item.rows
        for position in row.student_positions
    ]
    where = tuple(torch.tensor(at).T)
    gaps[where], scored[where] = credit(student_logits, teacher_logits, inputs), True
    bound = method.factor_bound
    return advantage_factors(advantages, gaps[mask], scored[mask], turn_numbers(mask), alpha, bound)


def regularizer(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    batch: Sequence[Rollout],
    method: SDSearchConfig,
) -> Tensor:
    """Return the weighted penalty on falling likelihood, a mean over the batch's N policy tokens."""
    if method.regularizer == "none":
        return torch.zeros(())
    units = row_numbers if method.regularizer == "llds_response" else turn_numbers
    values = penalties(method.regularizer, log_probs, old_log_probs, advantages, units(policy_mask(batch)))
    return method.regularizer_coef * values.mean()


@torch.no_grad()
def information_gain(
    logits_of: Callable[[list[list[int]]], Tensor],
    tokenizer: Any,
    batch: Sequence[Rollout],
    method: SDSearchConfig,
    seed: int,
) -> Tensor:
    """Return ``[N]``, what the information gain of each search adds to the advantage of its query's tokens.

    Args:
        logits_of: maps rows of token ids to logits ``[rows, T, V]``.
    """
    mask = policy_mask(batch)
    added = torch.zeros(mask.shape)
    inputs = build_gain_inputs(batch, tokenizer, PROTOCOL, seed)
    rows = [(row, at) for item in inputs for row, at in zip(item.rows, item.positions, strict=True)]
    if not rows:
        return added[mask]
    logits = logits_of([row for row, _ in rows]).log_softmax(-1)
    found = [[float(part[i, row[i + 1]]) for i in at] for part, (row, at) in zip(logits, rows, strict=True)]
    amounts = iter(gains(found))
    for number, item in enumerate(inputs):
        for first, end in item.spans:
            added[number, first:end] = method.information_gain * next(amounts) / (end - first)
    return added[mask]
