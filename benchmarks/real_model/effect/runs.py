"""Runs of the comparison: an arm and a seed, from a starting policy to a file of results.

Arms of a seed have the same questions in the same order and the same sampling seeds. A finished run is one JSON file;
one that was interrupted starts over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch

from benchmarks.real_model.effect.data import Question, split
from benchmarks.real_model.effect.measure import Candidates, greedy, margins, read_candidates
from benchmarks.real_model.effect.prepare import GROUP, load
from benchmarks.real_model.effect.sampling import Retrieve, found_gold, retriever, rollouts
from benchmarks.real_model.effect.train import items, update
from sd_search_verl.config import HindsightConfig, SDSearchConfig
from sd_search_verl.files import write_text
from sd_search_verl.rollout.types import Rollout


@dataclass(frozen=True)
class Arm:
    """A starting policy, and the method."""

    start: str
    method: SDSearchConfig


@dataclass(frozen=True)
class Plan:
    """Size of every run.

    Attributes:
        reward: ``gold``, whether the search found a golden answer; ``f1``, of the answer, which takes a second turn.
        questions: of a step, each with ``GROUP`` rollouts.
    """

    steps: int
    learning_rate: float
    reward: str = "gold"
    questions: int = 4


def arms(alpha: float) -> dict[str, Arm]:
    """Return the arms by name."""

    def method(hindsight: HindsightConfig, **changes: Any) -> SDSearchConfig:
        return SDSearchConfig(
            alpha=alpha, warmup_steps=0, hindsight=hindsight.replace(label="reward"), **changes
        )

    off = SDSearchConfig(alpha=0.0)
    plain = HindsightConfig()
    return {
        "grpo": Arm("warm", off),
        "sd": Arm("warm", method(plain)),
        "sd_flipped": Arm("warm", method(plain.replace(labels="flipped"))),
        "grpo_lessons": Arm("lessons", off),
        "sd_lessons": Arm("lessons", method(plain)),
        "sd_lessons_flipped": Arm("lessons", method(plain.replace(labels="flipped"))),
        "sd_lessons_empty": Arm("lessons", method(HindsightConfig(content="none"))),
        "sd_lessons_contrast": Arm("lessons", method(plain, target="contrast")),
        "sd_lessons_gate": Arm("lessons", method(plain, gate="labels")),
    }


@dataclass(frozen=True)
class Held:
    """What a policy is measured on."""

    questions: Sequence[Question]
    candidates: Sequence[Candidates]
    trained: Sequence[Candidates]
    retrieve: Retrieve

    def margins(self, policy: Any, tokenizer: Any) -> dict[str, list[float]]:
        """Return the margins of held-out and of training groups."""
        return {
            "margins": margins(policy, tokenizer, self.candidates),
            "training_margins": margins(policy, tokenizer, self.trained),
        }

    def greedy(self, policy: Any, tokenizer: Any, answers: bool) -> dict[str, list[float]]:
        """Return the scores of greedy rollouts."""
        return greedy(policy, tokenizer, self.questions, self.retrieve, answers)


def run(arm: Arm, seed: int, plan: Plan, held: Held, folder: Path, out: Path, device: str) -> dict[str, Any]:
    """Train, write the policy to ``out``, and return the steps and the margins after them.

    Args:
        folder: that :func:`~.prepare.prepare` wrote.
    """
    pool = training_questions(held, seed, plan)
    policy, tokenizer = load(folder / arm.start, device, torch.float32)
    reader, _ = load(folder / arm.start, device, torch.bfloat16)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    steps = []
    for number in range(1, plan.steps + 1):
        start = time.perf_counter()
        asked = pool[(number - 1) * plan.questions : number * plan.questions]
        batch = rollouts(
            reader,
            tokenizer,
            [question for question in asked for _ in range(GROUP)],
            held.retrieve,
            seed * 10_000 + number,
            answers=plan.reward == "f1",
        )
        for rollout in batch:
            rollout.reward = rollout.f1 if plan.reward == "f1" else found_gold(rollout)
        sampled = time.perf_counter()
        chosen = items(batch, GROUP, arm.method, tokenizer, number)
        losses = update(policy, optimizer, batch, chosen, arm.method)
        copy_weights(policy, reader)
        steps.append(
            _summary(batch)
            | {**vars(losses), "sampling_s": sampled - start, "update_s": time.perf_counter() - sampled}
        )
        print(
            f"step {number} {' '.join(f'{name} {value:.3f}' for name, value in steps[-1].items())}",
            flush=True,
        )
    reader.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {"steps": steps, "after": held.margins(reader, tokenizer)}


def held_out(folder: Path, data: Path) -> Held:
    """Return what is measured: 208 held-out questions, and the groups with both kinds of queries."""
    groups = folder / "groups"
    return Held(
        split(data)["held_out"],
        read_candidates(groups / "held_out.jsonl"),
        read_candidates(groups / "train.jsonl"),
        retriever(data / "corpus.jsonl", folder / "index"),
    )


def training_questions(held: Held, seed: int, plan: Plan) -> list[Question]:
    """Return the question of every place of the run: those whose first group was mixed, in passes of random order."""
    questions = [one.question for one in held.trained]
    draw = Random(seed)
    found: list[Question] = []
    while len(found) < plan.steps * plan.questions:
        found += draw.sample(questions, len(questions))
    return found[: plan.steps * plan.questions]


@torch.no_grad()
def copy_weights(policy: Any, reader: Any) -> None:
    """Copy the trained fp32 weights to the bf16 policy that samples."""
    for trained, stored in zip(policy.parameters(), reader.parameters(), strict=True):
        stored.copy_(trained)


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result))


def _summary(batch: Sequence[Rollout]) -> dict[str, float]:
    groups = [batch[start : start + GROUP] for start in range(0, len(batch), GROUP)]
    queries = [{" ".join(r.queries).lower() for r in group} for group in groups]
    return {
        "reward": fmean(r.reward or 0.0 for r in batch),
        "gold": fmean(map(found_gold, batch)),
        "searches": fmean(len(r.queries) for r in batch),
        "distinct_queries": fmean(map(len, queries)),
        "mixed_groups": fmean(len({r.reward for r in group}) > 1 for group in groups),
    }
