"""Measure a warm-started model in fresh worlds: does it read the block, and is it at chance without one?"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from sd_search_verl.config import HindsightConfig
from sd_search_verl.hindsight.block import RolloutSummary, insert_block, render_block
from sd_search_verl.world import demonstrations, sampling, text
from sd_search_verl.world.config import WorldConfig
from sd_search_verl.world.facts import Question, World
from sd_search_verl.world.questions import questions

ATTEMPTS = 5
WORLDS = 4


@dataclass(frozen=True)
class Probe:
    """Mean probability of the right phrasing after ``<search>``, one-hop questions, five attempts in a block.

    A model that ignores its context has chance everywhere.
    """

    plain: float
    """Without a block; a model that knows no world has chance."""
    correct: float
    """Some attempt is CORRECT: its phrasing is to be copied."""
    wrong: float
    """All are INCORRECT: what was tried is to be avoided."""
    chance: float

    def failures(self) -> list[str]:
        """Return the requirements of a warm start that are not met, in words."""
        found = []
        if not 0.72 <= self.plain / self.chance <= 1.28:
            found.append(f"plain context: p(right) {self.plain:.3f}, but ignorance is {self.chance:.3f}")
        if self.correct < 0.95:
            found.append(f"block with a CORRECT attempt: p(right) {self.correct:.3f} is below 0.95")
        return found

    def __str__(self) -> str:
        return (
            f"p(right phrasing): plain {self.plain:.3f}, CORRECT in block {self.correct:.3f}, "
            f"all INCORRECT {self.wrong:.3f}"
        )


def probe(model: Any, tokenizer: Any, config: WorldConfig, samples: int = 256, seed: int = 0) -> Probe:
    """Measure a model on ``samples`` questions of each kind, in fresh worlds of ``config``."""
    draw = Random(f"probe/{seed}")
    return Probe(
        plain=_mean_right(model, tokenizer, config, draw, samples, None),
        correct=_mean_right(model, tokenizer, config, draw, samples, True),
        wrong=_mean_right(model, tokenizer, config, draw, samples, False),
        chance=config.chance,
    )


def initial_success(model: Any, tokenizer: Any, config: WorldConfig, seed: int = 0) -> float:
    """Return the share of right answers at temperature 1 over the validation questions of ``WORLDS`` fresh worlds."""
    rates = []
    for index in range(WORLDS):
        world = World(config.replace(seed=seed + index))
        rates.append(sampling.success_rate(model, tokenizer, world, questions(world, "val"), seed))
    return sum(rates) / WORLDS


def _mean_right(
    model: Any, tokenizer: Any, config: WorldConfig, draw: Random, samples: int, correct: bool | None
) -> float:
    begun: list[str] = []
    right: list[str] = []
    while len(begun) < samples:
        world = World(config.replace(seed=draw.getrandbits(32)))
        question = Question(draw.choice(world.names), (draw.choice(world.relations),))
        messages = text.prompt(question.text)
        if correct is not None:
            attempts = _group(draw, world, question, correct)
            block = render_block(attempts, 0, HindsightConfig())
            messages = insert_block(messages, block, HindsightConfig())
        begun.append(text.render(messages) + text.PROTOCOL.search_open)
        right.append(world.right_phrasing(question.relations[0]))
    return float(sampling.phrasing_probability(model, tokenizer, begun, right).mean())


def _group(draw: Random, world: World, question: Question, correct: bool) -> list[RolloutSummary]:
    """Return attempts of which at least one (``correct``) or none is CORRECT."""
    (relation,) = question.relations
    while True:
        policy = demonstrations.attempt_policy(
            draw, world, relation, draw.uniform(0.05, 0.95) if correct else 0.0
        )
        attempts = [demonstrations.attempt(draw, world, question, [policy]) for _ in range(ATTEMPTS)]
        if any(attempt.f1 for attempt in attempts) == correct:
            return attempts
