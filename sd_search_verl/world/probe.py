"""What a warm-started model can do, in fresh worlds: does it read the block, is it ignorant without?"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from sd_search_verl.config import HindsightConfig
from sd_search_verl.hindsight import RolloutSummary, place_block, render_block
from sd_search_verl.world import demonstrations, sampling, text
from sd_search_verl.world.config import WorldConfig
from sd_search_verl.world.facts import Question, World, questions

ATTEMPTS = 5


@dataclass(frozen=True)
class Probe:
    """Mean probability of the right phrasing after ``<search>``, one-hop questions, five attempts in a block.

    With K = 8 candidates a model that ignores its context has 1/8 everywhere.
    """

    plain: float
    """Without a block; a model that knows no world has chance."""
    correct: float
    """Some attempt is CORRECT: its phrasing is to be copied."""
    wrong: float
    """All are INCORRECT: what was tried is to be avoided."""

    def failures(self) -> list[str]:
        """What a usable warm start lacks, in words; empty when nothing."""
        found = []
        if not 0.09 <= self.plain <= 0.16:
            found.append(f"plain context: p(right) {self.plain:.3f}, but ignorance is 0.125")
        if self.correct < 0.95:
            found.append(f"block with a CORRECT attempt: p(right) {self.correct:.3f} is below 0.95")
        return found

    def __str__(self) -> str:
        return (
            f"p(right phrasing): plain {self.plain:.3f}, CORRECT in block {self.correct:.3f}, "
            f"all INCORRECT {self.wrong:.3f}"
        )


def probe(model: Any, tokenizer: Any, samples: int = 256, seed: int = 0) -> Probe:
    """Measure a model on ``samples`` questions of each kind."""
    draw = Random(f"probe/{seed}")
    return Probe(
        plain=_mean_right(model, tokenizer, draw, samples, None),
        correct=_mean_right(model, tokenizer, draw, samples, True),
        wrong=_mean_right(model, tokenizer, draw, samples, False),
    )


def initial_success(model: Any, tokenizer: Any, seed: int = 0, worlds: int = 4) -> float:
    """Share of right answers at temperature 1 over the validation questions of some fresh worlds."""
    rates = []
    for index in range(worlds):
        world = World(WorldConfig(seed=seed + index))
        rates.append(sampling.success_rate(model, tokenizer, world, questions(world, "val"), seed))
    return sum(rates) / worlds


def _mean_right(model: Any, tokenizer: Any, draw: Random, samples: int, correct: bool | None) -> float:
    rows: list[list[int]] = []
    right: list[int] = []
    while len(rows) < samples:
        world = World(WorldConfig(seed=draw.getrandbits(32)))
        question = Question(draw.choice(world.names), (draw.choice(world.relations),))
        messages = text.prompt(question.text)
        if correct is not None:
            attempts = _group(draw, world, question, correct)
            block = render_block(attempts, 0, HindsightConfig())
            messages = place_block(messages, block, HindsightConfig())
        rows.append(tokenizer.encode(text.render(messages) + text.PROTOCOL.search_open))
        right.append(tokenizer.convert_tokens_to_ids(f" {world.right_phrasing(question.relations[0])}"))
    probabilities = sampling.next_token_logits(model, rows).softmax(-1)
    return float(probabilities[range(samples), right].mean())


def _group(draw: Random, world: World, question: Question, correct: bool) -> list[RolloutSummary]:
    """Attempts with at least one, or without any, that is CORRECT."""
    (relation,) = question.relations
    while True:
        policy = demonstrations.attempt_policy(
            draw, world, relation, draw.uniform(0.05, 0.95) if correct else 0.0
        )
        attempts = [demonstrations.attempt(draw, world, question, [policy]) for _ in range(ATTEMPTS)]
        if any(attempt.f1 for attempt in attempts) == correct:
            return attempts
