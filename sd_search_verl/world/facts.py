"""What is true in a world, and its oracle.

A relation has several candidate phrasings. For every name and relation each phrasing has its own passage with
its own value, and only one phrasing, the same for all names, gives the true value. The question never tells
which, so a policy can only find out by reward: a wrong phrasing retrieves a clean passage with a plausible
wrong answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from sd_search_verl.world.config import WorldConfig
from sd_search_verl.world.words import NAMES, RELATIONS


@dataclass(frozen=True)
class Question:
    """``relations`` in the order in which they are searched: the first is asked of ``subject``."""

    subject: str
    relations: tuple[str, ...]

    @property
    def text(self) -> str:
        """As the policy reads it: the last relation comes first."""
        return " of ".join([*reversed(self.relations), self.subject]) + " ?"


class World:
    """A world is its config: every fact is drawn from the seed and the fact's own name, when asked for."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.names: Sequence[str] = NAMES[: config.names]
        self.relations: Sequence[str] = list(RELATIONS)[: config.relations]
        self._right: dict[str, str] = {}
        self._values: dict[tuple[str, str], list[str]] = {}

    def phrasings(self, relation: str) -> Sequence[str]:
        """Candidate phrasings of a relation."""
        return RELATIONS[relation][: self.config.phrasings]

    def right_phrasing(self, relation: str) -> str:
        """The one phrasing of ``relation`` that finds the truth."""
        if relation not in self._right:
            self._right[relation] = self._draw(relation).choice(self.phrasings(relation))
        return self._right[relation]

    def value(self, name: str, relation: str, phrasing: str) -> str:
        """What the passage found by ``phrasing name`` says; distinct for each phrasing, never ``name``."""
        candidates = self.phrasings(relation)
        if (values := self._values.get((name, relation))) is None:
            drawn = self._draw(f"{name} {relation}").sample(self.names, len(candidates) + 1)
            values = self._values[name, relation] = [value for value in drawn if value != name]
        return values[candidates.index(phrasing)]

    def contents(self, name: str, relation: str, phrasing: str) -> str:
        """The passage. The subject is its title too, so BM25 counts it twice; else ``X phrasing is NAME``
        would tie with ``NAME phrasing is X`` for the query ``phrasing NAME``."""
        return f"{name}\n{name} {phrasing} is {self.value(name, relation, phrasing)} ."

    def passages(self) -> Iterator[str]:
        """Every passage of the corpus."""
        for name in self.names:
            for relation in self.relations:
                for phrasing in self._with_passage(relation):
                    yield self.contents(name, relation, phrasing)

    def retrieve(self, query: str) -> str | None:
        """The passage that a query of one phrasing and one name finds, as by BM25; None for other queries."""
        words = query.split()
        if len(words) != 2:
            return None
        phrasing, name = words if words[1] in self.names else reversed(words)
        relation = self._relation_of.get(phrasing)
        return None if relation is None or name not in self.names else self.contents(name, relation, phrasing)

    def right_queries(self, question: Question) -> list[str]:
        """The oracle: the queries that lead to the truth, one a hop."""
        return [f"{phrasing} {name}" for name, _, phrasing in self._right_path(question)]

    def answer(self, question: Question) -> str:
        """The true answer."""
        return self.value(*self._right_path(question)[-1])

    @cached_property
    def held_out(self) -> list[str]:
        """Names that are subjects of validation questions only."""
        return self._draw("held out").sample(self.names, self.config.held_out_names)

    def _right_path(self, question: Question) -> list[tuple[str, str, str]]:
        path, name = [], question.subject
        for relation in question.relations:
            path.append((name, relation, self.right_phrasing(relation)))
            name = self.value(*path[-1])
        return path

    def _with_passage(self, relation: str) -> list[str]:
        right = self.right_phrasing(relation)
        wrong = [phrasing for phrasing in self.phrasings(relation) if phrasing != right]
        return [right, *wrong[: self.config.distractors]]

    @cached_property
    def _relation_of(self) -> dict[str, str]:
        return {
            phrasing: relation for relation in self.relations for phrasing in self._with_passage(relation)
        }

    def _draw(self, what: str) -> Random:
        return Random(f"{self.config.seed}/{what}")


def questions(world: World, split: str) -> list[Question]:
    """The distinct questions of a split ("train" or "val"), in random order.

    Raises:
        ValueError: the world has fewer distinct questions than the config asks for.
    """
    config = world.config
    total = config.train_questions if split == "train" else config.val_questions
    held_out = set(world.held_out)
    subjects = [name for name in world.names if (name in held_out) == (split == "val")]
    one_hop = [Question(name, (first,)) for name in subjects for first in world.relations]
    two_hop = [
        Question(name, (first, second))
        for name in subjects
        for first in world.relations
        for second in world.relations
        if first != second
    ]
    draw = Random(f"{config.seed}/questions/{split}")
    wanted_two = round(config.two_hop_share * total)
    chosen: list[Question] = []
    for pool, wanted, hops in ((one_hop, total - wanted_two, "one-hop"), (two_hop, wanted_two, "two-hop")):
        if wanted > len(pool):
            raise ValueError(
                f"world.{split}_questions={total} asks for {wanted} {hops} questions, "
                f"the world has {len(pool)}; lower it or change two_hop_share"
            )
        chosen += draw.sample(pool, wanted)
    draw.shuffle(chosen)
    return chosen
