"""SD-Search's training in one file, without verl: read it from top to bottom to understand the method.

    L = L_GRPO + alpha * L_SD

One policy plays two parts. As the *student* it searches and answers. As the *teacher* it reads the same tokens
behind a block that lists the group's queries with their outcomes: with hindsight it knows better how each query
should have been worded. L_SD pulls the student's next-token distributions at query tokens towards the teacher's.

The block, the teacher's rows, the divergence and the mean over query tokens are the plugin's own functions; the
rest of the plugin is how the same thing runs in verl. ``tests/benchmarks/world/test_reference.py`` holds the two
together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.world.config import TrainConfig
from benchmarks.world.family import credit, information_gain, regularizer, teacher_factors
from benchmarks.world.records import MiniBatch, Step
from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.divergence import divergence
from sd_search_verl.distill.loss import sd_loss, token_weights
from sd_search_verl.distill.schedule import alpha_at, policy_weight_at
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs, build_teacher_inputs
from sd_search_verl.objectives.gate import gated
from sd_search_verl.objectives.moving_average import MovingAverage
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.world.facts import World
from sd_search_verl.world.questions import questions
from sd_search_verl.world.sampling import rollouts


def train(
    model: Any,
    tokenizer: Any,
    world: World,
    method: SDSearchConfig,
    config: TrainConfig,
    after_step: Callable[[Step], None],
    retarget: Callable[[Tensor, Sequence[TeacherInputs], Any, World], Tensor] = lambda logits, *_: logits,
    sample: Callable[..., list[Rollout]] = rollouts,
) -> None:
    """Train ``model`` in place, on batches of fresh rollouts.

    Args:
        model: a causal language model of transformers, fp32.
        retarget: replaces the teacher's logits; for controls.
        sample: makes the rollouts; for those of older weights.
        after_step: called after every update.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=0.0
    )
    ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / config.warmup_steps))
    average = MovingAverage()
    pool = questions(world, "train")
    for number in range(1, config.steps + 1):
        # 1. Rollouts: G for each question.
        first = (number - 1) * config.questions
        chosen = [pool[(first + i) % len(pool)] for i in range(config.questions)]
        asked = [question for question in chosen for _ in range(config.group)]
        batch = sample(model, tokenizer, world, asked, seed=config.seed * 1_000_003 + number)
        rewards = torch.tensor([rollout.em for rollout in batch])

        # 2. Hindsight: the group's queries and outcomes, in front of each rollout's own tokens.
        inputs = build_teacher_inputs(
            batch,
            method,
            tokenizer,
            lambda messages: encode_messages(messages, tokenizer),
            seed=number,
        )
        alpha, policy_weight = alpha_at(number, method), policy_weight_at(number, method)
        advantages = per_token(grpo_advantages(rewards, config.group), batch)
        if method.information_gain:
            read_by = partial(forward, model)
            advantages = advantages + information_gain(read_by, tokenizer, batch, method, seed=number)
        with torch.no_grad():  # with one mini-batch, the update's own
            old = (
                policy_log_probs(forward(model, token_rows(batch)), batch)
                if config.mini_batches > 1
                else None
            )

        # 3. Updates of L_GRPO + alpha * L_SD, each on a part of the rollouts.
        found: list[MiniBatch] = []
        for part in parts(batch, config.mini_batches):
            tokens, read = token_slice(batch, part), inputs[part]
            taught = flipped = None
            if alpha:
                if method.teacher == "ema":
                    average.update(model, method.teacher_decay)
                with average.in_place_of(model) if method.teacher == "ema" else nullcontext():
                    width = max(map(len, token_rows(batch[part])))
                    taught = teacher_pass(model, read, width)
                    flipped = teacher_pass(model, [replace(i, rows=i.flipped) for i in read], width)
            used = None if taught is None else retarget(taught, read, tokenizer, world)
            one = mini_batch(
                model,
                batch[part],
                read,
                advantages[tokens],
                None if old is None else old[tokens],
                used,
                flipped,
                alpha,
                method,
                config,
            )
            (policy_weight * one.policy + alpha * one.sd if method.use == "loss" else one.policy).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            found.append(replace(one, teacher_logits=taught))
        ramp.step()
        after_step(Step.of(number, asked, batch, rewards, inputs, found))


def mini_batch(
    model: Any,
    batch: Sequence[Rollout],
    inputs: Sequence[TeacherInputs],
    advantages: Tensor,
    old: Tensor | None,
    teacher_logits: Tensor | None,
    flipped_logits: Tensor | None,
    alpha: float,
    method: SDSearchConfig,
    config: TrainConfig,
) -> MiniBatch:
    """Return the losses of one update.

    Args:
        advantages: ``[N]`` at the policy tokens.
        old: ``[N]`` log-probs before the first update; None in the first.
        teacher_logits: ``[M, V]``; None where alpha is 0.
        flipped_logits: ``[M, V]`` behind inverted labels; None where the loss needs none.
    """
    logits = forward(model, token_rows(batch))
    student_logits = at_query_tokens(logits, inputs)
    log_probs = policy_log_probs(logits, batch)
    old = log_probs.detach() if old is None else old
    if method.use == "advantage" and teacher_logits is not None:
        factors = teacher_factors(advantages, student_logits, teacher_logits, batch, inputs, alpha, method)
        advantages = advantages * factors
    grpo = grpo_loss(log_probs, old, advantages, config)
    policy = grpo + regularizer(log_probs, old, advantages, batch, method)
    sd = distillation_loss(student_logits, teacher_logits, inputs, method, flipped_logits)
    return MiniBatch(grpo, policy, sd, student_logits.detach())


def token_rows(batch: Sequence[Rollout]) -> list[list[int]]:
    """Return the token ids of every rollout."""
    return [rollout.prompt.token_ids + rollout.response_ids for rollout in batch]


def parts(batch: Sequence[Rollout], count: int) -> list[slice]:
    """Return ``count`` equal parts of a batch, in order."""
    size = -(-len(batch) // count)
    return [slice(start, start + size) for start in range(0, len(batch), size)]


def token_slice(batch: Sequence[Rollout], part: slice) -> slice:
    """Return the range of the part's policy tokens among those of the batch."""
    first = sum(sum(rollout.response_mask) for rollout in batch[: part.start])
    return slice(first, first + sum(sum(rollout.response_mask) for rollout in batch[part]))


def grpo_advantages(rewards: Tensor, group: int) -> Tensor:
    """Return ``[B]`` advantages: reward minus the group's mean, divided by the group's standard deviation.

    A group with equal rewards has advantage 0: GRPO learns nothing from it.
    """
    grouped = rewards.view(-1, group)
    centred = grouped - grouped.mean(-1, keepdim=True)
    return (centred / (grouped.std(-1, keepdim=True) + 1e-6)).flatten()


def per_token(values: Tensor, batch: Sequence[Rollout]) -> Tensor:
    """Return ``[B]`` values repeated for every token of the policy, ``[N]``."""
    return values.repeat_interleave(torch.tensor([sum(rollout.response_mask) for rollout in batch]))


def policy_log_probs(logits: Tensor, batch: Sequence[Rollout]) -> Tensor:
    """Return ``[N]`` log-probs of the policy's tokens, rollout after rollout, from ``[B, T, V]`` logits."""
    found = []
    for row, rollout in zip(logits, batch, strict=True):
        start = len(rollout.prompt.token_ids) - 1  # the logits at t predict token t + 1
        log_probs = row[start : start + len(rollout.response_ids)].log_softmax(-1)
        chosen = log_probs.gather(-1, torch.tensor(rollout.response_ids)[:, None])[:, 0]
        found.append(chosen[torch.tensor(rollout.response_mask, dtype=torch.bool)])
    return torch.cat(found)


def grpo_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, config: TrainConfig) -> Tensor:
    """Return PPO's clipped objective, its mean over the batch's N policy tokens. All arguments are ``[N]``.

    Losses of negative advantages are bounded too (dual clip, arXiv 1912.09729), as in verl.
    """
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - config.clip_ratio, 1 + config.clip_ratio)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    bounded = torch.minimum(losses, -advantages * config.clip_ratio_c)
    return torch.where(advantages < 0, bounded, losses).mean()


def forward(model: Any, rows: Sequence[Sequence[int]], at_least: int = 0) -> Tensor:
    """Return logits ``[B, T, V]`` of rows padded at their end, where causal attention of real tokens does not reach.

    ``at_least``: smallest T.
    """
    width = max(at_least, *map(len, rows))
    logits: Tensor = model(torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])).logits
    return logits


@torch.no_grad()
def teacher_pass(model: Any, inputs: Sequence[TeacherInputs], student_width: int) -> Tensor | None:
    """Return ``[M, V]`` logits of the policy reading the block, at the batch's M query tokens; None without any.

    ``student_width``: T of the student's batch. In a batch as wide, a row without a block gets the student's numbers to
    the last bit, so an empty block teaches exactly nothing.
    """
    rows = [row for item in inputs for row in item.rows]
    if not rows:
        return None
    logits = forward(model, [row.input_ids for row in rows], student_width)
    return torch.cat([part[row.teacher_positions] for part, row in zip(logits, rows, strict=True)])


def at_query_tokens(logits: Tensor, inputs: Sequence[TeacherInputs]) -> Tensor:
    """Return ``[M, V]``, the student's logits at the same tokens in the same order, from ``[B, T, V]``."""
    rows = [(part, row) for part, item in zip(logits, inputs, strict=True) for row in item.rows]
    return torch.cat([logits[0, :0], *(part[row.student_positions] for part, row in rows)])


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    inputs: Sequence[TeacherInputs],
    method: SDSearchConfig,
    flipped_logits: Tensor | None,
) -> Tensor:
    """Return L_SD: the mean over a trajectory's query tokens, then over trajectories with any; 0 without a teacher."""
    if teacher_logits is None:
        return torch.zeros(())
    top_k = method.top_k
    if method.target == "uniform":
        teacher_logits, top_k = torch.zeros_like(teacher_logits), None
    elif method.target == "contrast" and flipped_logits is not None:
        teacher_logits = student_logits.detach() + teacher_logits - flipped_logits
    values = divergence(student_logits, teacher_logits, method.divergence, top_k, method.support, method.tail)
    counts = torch.tensor([sum(len(row.student_positions) for row in item.rows) for item in inputs])
    weights = token_weights(counts, torch.tensor([item.weight for item in inputs])).to(values.device)
    gap = credit(student_logits, teacher_logits, inputs)
    labelled = None if flipped_logits is None else (gap - credit(student_logits, flipped_logits, inputs)) / 2
    weights = gated(weights, gap, method, labelled)
    return sd_loss(values, weights, int((counts > 0).sum()))
