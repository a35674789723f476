"""Warm-start examples of the protocol and of reading a hindsight block, each in a fresh world.

No fact and no right phrasing occurs twice, so none can be memorised. Without a block
the demonstration's phrasing is uniform, as the policy's must be before RL. With a block it is the right one,
so the best prediction is the posterior given the attempts: copy what was CORRECT, avoid what was INCORRECT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from sd_search_verl.config import HindsightConfig
from sd_search_verl.hindsight.block import RolloutSummary, insert_block, render_block
from sd_search_verl.world import text
from sd_search_verl.world.config import WorldConfig
from sd_search_verl.world.facts import Question, World

Segment = tuple[str, float]
"""Text and the weight of its tokens in the loss."""


@dataclass(frozen=True)
class Stage:
    """Difficulty of the examples at one time of the curriculum."""

    most_attempts: int
    more_hops: float
    """Share of questions with more than one hop."""
    never_right: float
    """Share of blocks in which some hop never tries the right phrasing."""
    right_mass: tuple[float, float]
    """Range of the probability that an attempt's hop uses the right phrasing, elsewhere."""
    lessons: float
    """Share of one-hop blocks whose attempts are all different. Every phrasing in them
    carries loss too, which teaches elimination at each of them."""


def stage(progress: float) -> Stage:
    """Return the curriculum at ``progress`` in [0, 1): models learn to read a block sooner from easy examples."""
    return Stage(
        most_attempts=1 if progress < 0.08 else 2 if progress < 0.2 else 3 if progress < 0.3 else 6,
        more_hops=0.1 if progress < 0.1 else 0.3 if progress < 0.3 else 0.5,
        never_right=0.1 if progress < 0.2 else 0.3 if progress < 0.4 else 0.5,
        right_mass=(0.7, 1.0) if progress < 0.08 else (0.05, 0.95),
        lessons=0.6 if progress < 0.7 else 0.0,
    )


@dataclass(frozen=True)
class Demonstration:
    """``prompt`` as the model reads it; of its tokens only phrasings carry loss, weight ``block_weight``."""

    prompt: str
    response: list[Segment]
    block_weight: float


BLOCK_SHARE = 0.8
PHRASING_WEIGHT = 2.0
"""Loss weight of the phrasing token where a block tells it: it is one of about ten policy tokens."""


def demonstration(draw: Random, now: Stage, config: WorldConfig) -> Demonstration:
    """Return one example of stage ``now`` in a fresh world of ``config``."""
    world = World(config.replace(seed=draw.getrandbits(32)))
    hops = _hops(draw, now, config)
    question = Question(draw.choice(world.names), tuple(draw.sample(world.relations, hops)))
    right = [world.right_phrasing(relation) for relation in question.relations]
    messages = text.prompt(question.text)
    if draw.random() >= BLOCK_SHARE:
        chosen = [_ignorant(draw, world, relation) for relation in question.relations]
        response = _response(draw, world, question, chosen, [1.0] * hops)
        return Demonstration(text.render(messages), response, 0.0)

    lesson = hops == 1 and draw.random() < now.lessons
    attempts = _lesson(draw, world, question) if lesson else _attempts(draw, now, world, question)
    block = render_block(attempts, 0, HindsightConfig())
    weights = [PHRASING_WEIGHT] * hops
    if hops > 1 and draw.random() < 0.5:
        # The student's own hop: continue from the name in its own document, not from the block's.
        astray = draw.randrange(hops - 1) if hops > 2 else 0
        right[astray] = draw.choice(world.phrasings(question.relations[astray]))
        weights[astray] = 0.0
    prompt = text.render(insert_block(messages, block, HindsightConfig()))
    return Demonstration(prompt, _response(draw, world, question, right, weights), float(lesson))


def _hops(draw: Random, now: Stage, config: WorldConfig) -> int:
    if config.hops == 1 or draw.random() >= now.more_hops:
        return 1
    return draw.randint(2, config.hops) if config.hops > 2 else 2


def _ignorant(draw: Random, world: World, relation: str) -> str:
    """Return a phrasing by habit, or any (other) one."""
    habit, phrasings = world.config.habit, world.phrasings(relation)
    if not habit:
        return draw.choice(phrasings)
    return phrasings[0] if draw.random() < habit else draw.choice(phrasings[1:])


def _response(
    draw: Random, world: World, question: Question, chosen: Sequence[str], weights: Sequence[float]
) -> list[Segment]:
    """Return a whole trajectory with the ``chosen`` phrasings, whose tokens get ``weights``."""
    segments: list[Segment] = []
    name = question.subject
    filler = world.config.filler
    for relation, phrasing, weight in zip(question.relations, chosen, weights, strict=True):
        query = f"{phrasing} {name}"
        before, after = text.search_turn(query).split(f" {phrasing}", 1)
        segments += [(word, 1.0) for word in text.thinking(draw, filler)]
        segments += [(before, 1.0), (f" {phrasing}", weight), (after, 1.0)]
        segments.append((text.observation(world.retrieve(query)), 0.0))
        name = world.value(name, relation, phrasing)
    segments += [(word, 1.0) for word in text.thinking(draw, filler)]
    return [*segments, (text.answer_turn(name), 1.0)]


MAX_LESSON_ATTEMPTS = 7
"""Attempts of a lesson, at most."""


def _lesson(draw: Random, world: World, question: Question) -> list[RolloutSummary]:
    """Return two or more attempts with different phrasings; in half of the groups none may be right."""
    (relation,) = question.relations
    pool, right = list(world.phrasings(relation)), world.right_phrasing(relation)
    if draw.random() < 0.5:
        pool.remove(right)
    most = min(len(world.phrasings(relation)) - 1, MAX_LESSON_ATTEMPTS)
    tried = draw.sample(pool, min(draw.randint(2, max(2, most)), len(pool)))
    return [
        RolloutSummary([f"{phrasing} {question.subject}"], float(phrasing == right)) for phrasing in tried
    ]


def _attempts(draw: Random, now: Stage, world: World, question: Question) -> list[RolloutSummary]:
    """Return a group of rollouts by a random policy: one random distribution over phrasings per hop."""
    never = draw.randrange(len(question.relations)) if draw.random() < now.never_right else None
    policy = [
        attempt_policy(draw, world, relation, 0.0 if hop == never else draw.uniform(*now.right_mass))
        for hop, relation in enumerate(question.relations)
    ]
    return [attempt(draw, world, question, policy) for _ in range(draw.randint(1, now.most_attempts))]


def attempt_policy(draw: Random, world: World, relation: str, right_mass: float) -> list[float]:
    """Return the probabilities of a relation's phrasings: ``right_mass`` for the right one, random for others."""
    candidates, right = world.phrasings(relation), world.right_phrasing(relation)
    concentration = draw.choice((0.3, 1.0, 5.0))
    weights = [0.0 if phrasing == right else draw.gammavariate(concentration, 1.0) for phrasing in candidates]
    total = sum(weights) or 1.0
    return [
        right_mass if phrasing == right else (1 - right_mass) * weight / total
        for phrasing, weight in zip(candidates, weights, strict=True)
    ]


NO_SEARCH_SHARE = 0.03
"""Share of attempts that never searched."""


def attempt(
    draw: Random, world: World, question: Question, policy: Sequence[Sequence[float]]
) -> RolloutSummary:
    """Return one rollout by a policy, the probabilities of each hop's phrasings."""
    if draw.random() < NO_SEARCH_SHARE:
        return RolloutSummary([], 0.0)
    queries, name = [], question.subject
    for relation, weights in zip(question.relations, policy, strict=True):
        (phrasing,) = draw.choices(world.phrasings(relation), weights)
        queries.append(f"{phrasing} {name}")
        name = world.value(name, relation, phrasing)
    return RolloutSummary(queries, float(name == world.answer(question)))
