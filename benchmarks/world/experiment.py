"""One arm on one seed: train from the shipped checkpoint in a world of its own, and look at it now and then."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import logging

from benchmarks.world import arms, oracle
from benchmarks.world.config import TrainConfig
from benchmarks.world.records import Step
from benchmarks.world.reference import train
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.world.config import CHECKPOINT
from sd_search_verl.world.facts import World
from sd_search_verl.world.files import difficulty
from sd_search_verl.world.model import load_model
from sd_search_verl.world.questions import questions
from sd_search_verl.world.sampling import rollouts


@dataclass(frozen=True)
class EvaluationRow:
    """An evaluation, and the means over the training steps since the one before. nan: not measured.

    Attributes:
        rollouts: sampled for training so far.
        success: share of held-out questions answered at temperature 1; also of those with one hop and with more.
        p_right: mean probability of the right phrasing over the hops of held-out questions.
        reward: mean of the training rollouts.
        cpu_s: process time since the start, evaluations included.

    The others are those of :func:`benchmarks.world.oracle.measure`.
    """

    arm: str
    seed: int
    device: str
    step: int
    rollouts: int
    success: float
    success_one_hop: float
    success_more_hops: float
    p_right: float
    cpu_s: float
    reward: float = math.nan
    sd_loss: float = math.nan
    teacher_p_right: float = math.nan
    student_p_right: float = math.nan
    teacher_p_right_mixed: float = math.nan
    student_p_right_mixed: float = math.nan
    teacher_p_right_failed: float = math.nan
    student_p_right_failed: float = math.nan
    credit_sign_mixed: float = math.nan
    teacher_entropy: float = math.nan
    student_entropy: float = math.nan


COLUMNS = [column.name for column in fields(EvaluationRow)]


def run(
    arm: str,
    config: TrainConfig,
    checkpoint: Path = CHECKPOINT,
    alpha: float | None = None,
    sample: Callable[..., list[Rollout]] = rollouts,
) -> list[EvaluationRow]:
    """Train one arm in the checkpoint's world; equal arguments give equal rows.

    Arms of one seed see the same world and questions. ``alpha``: in place of the arm's own. ``sample``: makes the
    training rollouts.

    Raises:
        UserError: no such arm.
    """
    chosen = arms.arm(arm, alpha)
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    model = load_model(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    evaluator = Evaluator(
        arm, config, model, tokenizer, World(difficulty(checkpoint).replace(seed=config.seed))
    )
    evaluator.evaluate(0)
    world = evaluator.world
    train(model, tokenizer, world, chosen.method, config, evaluator.after_step, chosen.retarget, sample)
    return evaluator.rows


@dataclass
class Evaluator:
    """Collects rows while a model trains."""

    arm: str
    config: TrainConfig
    model: Any
    tokenizer: Any
    world: World
    rows: list[EvaluationRow] = field(default_factory=list)
    _since: list[dict[str, float]] = field(default_factory=list)
    _begun: float = field(default_factory=time.process_time)

    def after_step(self, step: Step) -> None:
        """Note a step; evaluate where the config says."""
        _, sd = step.losses
        measured = oracle.measure(step, self.tokenizer, self.world)
        reward = float(step.rewards.mean())
        self._since.append({"reward": reward, **measured})
        if step.teacher_logits is not None:
            self._since[-1]["sd_loss"] = sd
        if step.number % self.config.evaluate_every == 0 or step.number == self.config.steps:
            self.evaluate(step.number)

    def evaluate(self, step: int) -> None:
        """Add a row."""
        asked = questions(self.world, "val")
        finished = rollouts(self.model, self.tokenizer, self.world, asked, seed=self.config.seed)
        right = [rollout.em for rollout in finished]
        by_hops = {
            one: [value for value, q in zip(right, asked, strict=True) if (len(q.relations) == 1) == one]
            for one in (True, False)
        }
        names = {name for values in self._since for name in values}
        means = {name: _mean([v[name] for v in self._since if name in v]) for name in names}
        self._since.clear()
        self.rows.append(
            EvaluationRow(
                arm=self.arm,
                seed=self.config.seed,
                device=f"{platform.machine()} CPU, 1 thread",
                step=step,
                rollouts=step * self.config.questions * self.config.group,
                success=_mean(right),
                success_one_hop=_mean(by_hops[True]),
                success_more_hops=_mean(by_hops[False]),
                p_right=oracle.policy_p_right(self.model, self.tokenizer, self.world, asked),
                cpu_s=time.process_time() - self._begun,
                **means,
            )
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
