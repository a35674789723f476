"""What only a synthetic world can tell: how likely policy and teacher find the *right* phrasing, and whether the
teacher's credit points the right way.

Everything is measured at phrasing positions: the first ``words`` tokens of a hop's query.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from benchmarks.world.records import Step
from sd_search_verl.world import text
from sd_search_verl.world.facts import Question, World
from sd_search_verl.world.sampling import phrasing_probability


def policy_p_right(model: Any, tokenizer: Any, world: World, asked: Sequence[Question]) -> float:
    """Return the mean probability of the right phrasing at every hop, earlier hops taken as the oracle takes them."""
    begun: list[str] = []
    right: list[str] = []
    for question in asked:
        seen = text.render(text.prompt(question.text))
        hops = zip(question.relations, world.right_queries(question), strict=True)
        for relation, query in hops:
            begun.append(seen + text.PROTOCOL.search_open)
            right.append(world.right_phrasing(relation))
            seen += text.search_turn(query) + text.observation(world.retrieve(query))
    return float(phrasing_probability(model, tokenizer, begun, right).mean())


def measure(step: Step, tokenizer: Any, world: World) -> dict[str, float]:
    """Return the means over a step's phrasing positions; teacher's values only where there is a teacher.

    Returns:
        ``{teacher,student}_p_right`` overall, and ``..._mixed``, ``..._failed`` for groups of both outcomes and of
        none right; ``{teacher,student}_entropy`` over all scored tokens, in nats; ``credit_sign_mixed``: share of
        positions in mixed groups where log teacher - log student of the sampled phrasing has the oracle's sign.
    """
    student = step.student_logits.softmax(-1)
    teacher = None if step.teacher_logits is None else step.teacher_logits.softmax(-1)
    found: dict[str, list[float]] = {"student_entropy": _entropy(student)}
    if teacher is not None:
        found["teacher_entropy"] = _entropy(teacher)
    kinds = _kinds_of_groups(step)
    for position in _positions(step, tokenizer, world):
        kind = kinds[step.batch[position.rollout].prompt.group]
        for name, distribution in (("student", student), ("teacher", teacher)):
            if distribution is None:
                continue
            value = float(distribution[position.slot, position.right])
            found.setdefault(f"{name}_p_right", []).append(value)
            if kind is not None:
                found.setdefault(f"{name}_p_right_{kind}", []).append(value)
        if teacher is not None and kind == "mixed":
            taught, said = (float(part[position.slot, position.sampled]) for part in (teacher, student))
            agrees = (taught > said) == (position.sampled == position.right)
            found.setdefault("credit_sign_mixed", []).append(float(agrees))
    return {name: sum(values) / len(values) for name, values in found.items() if values}


@dataclass(frozen=True)
class _Position:
    rollout: int
    slot: int
    """Row of the step's logits."""
    sampled: int
    right: int


def _positions(step: Step, tokenizer: Any, world: World) -> Iterator[_Position]:
    slot = 0
    for index, (item, rollout, question) in enumerate(zip(step.inputs, step.batch, step.asked, strict=True)):
        slots: dict[int, int] = {}
        for row in item.rows:
            for position in row.student_positions:
                slots[position] = slot
                slot += 1
        for relation, (start, end) in zip(question.relations, rollout.spans, strict=False):
            words = world.right_phrasing(relation).split()
            for at, word in zip(range(start, end), words, strict=False):
                yield _Position(
                    rollout=index,
                    slot=slots[len(rollout.prompt.token_ids) + at - 1],
                    sampled=rollout.response_ids[at],
                    right=tokenizer.convert_tokens_to_ids(f" {word}"),
                )


def _kinds_of_groups(step: Step) -> dict[str, str | None]:
    rewards: dict[str, list[float]] = {}
    for rollout, reward in zip(step.batch, step.rewards.tolist(), strict=True):
        rewards.setdefault(rollout.prompt.group, []).append(reward)
    return {
        group: "failed" if not any(values) else None if all(values) else "mixed"
        for group, values in rewards.items()
    }


def _entropy(distribution: Tensor) -> list[float]:
    values: list[float] = (-(distribution * distribution.clamp_min(1e-30).log()).sum(-1)).tolist()
    assert all(math.isfinite(value) for value in values)
    return values
