"""The facts of a world, and its oracle.

A relation has several candidate phrasings. For every name and relation each phrasing has its own passage with
its own value, and only one phrasing, the same for all names, gives the true value. The question never tells
which, so a policy can only find out by reward: a wrong phrasing retrieves a clean passage with a plausible
wrong answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
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
        """The question as the policy reads it: the last relation comes first."""
        return " of ".join([*reversed(self.relations), self.subject]) + " ?"


class World:
    """A world given by its config: every fact is drawn on demand from the seed and the fact's own name."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.names: Sequence[str] = NAMES[: config.names]
        self.relations: Sequence[str] = list(RELATIONS)[: config.relations]
        self._right: dict[str, str] = {}
        self._values: dict[tuple[str, str], dict[str, str]] = {}

    def phrasings(self, relation: str) -> Sequence[str]:
        """Return the candidate phrasings of a relation, of ``words`` words each, the habitual one first."""
        return _phrasings(relation, self.config.words, self.config.candidates)

    def right_phrasing(self, relation: str) -> str:
        """Return the one phrasing of ``relation`` that finds the truth."""
        if relation not in self._right:
            possible = self.phrasings(relation)[1 if self.config.habit else 0 :]
            self._right[relation] = self._draw(relation).choice(possible)
        return self._right[relation]

    def value(self, name: str, relation: str, phrasing: str) -> str:
        """Return the value in the passage that ``phrasing name`` finds: distinct for each phrasing, never ``name``."""
        if (values := self._values.get((name, relation))) is None:
            candidates = self.phrasings(relation)
            drawn = self._draw(f"{name} {relation}").sample(self.names, len(candidates) + 1)
            others = [value for value in drawn if value != name]
            values = self._values[name, relation] = dict(zip(candidates, others, strict=False))
        return values[phrasing]

    def contents(self, name: str, relation: str, phrasing: str) -> str:
        """Return the passage. The subject is its title too, so BM25 counts it twice; else ``X phrasing is NAME``
        would tie with ``NAME phrasing is X`` for the query ``phrasing NAME``."""
        return f"{name}\n{name} {phrasing} is {self.value(name, relation, phrasing)} ."

    def passages(self) -> Iterator[str]:
        """Yield every passage of the corpus."""
        for name in self.names:
            for relation in self.relations:
                for phrasing in self._with_passage(relation):
                    yield self.contents(name, relation, phrasing)

    def retrieve(self, query: str) -> list[str]:
        """Return the passages, best first, that a query of one whole phrasing and one name finds; else none.

        The first is the one that BM25 finds. Further ones (``documents``) are drawn from those about the same name
        and relation; BM25 may choose others.
        """
        words = query.split()
        names = [word for word in words if word in self.names]
        known = _by_words(self.config.relations, self.config.words, self.config.candidates)
        relation, phrasing = known.get(frozenset(words) - {*names}, ("", ""))
        if len(names) != 1 or len(words) != self.config.words + 1 or not relation:
            return []
        with_passage = self._with_passage(relation)
        if phrasing not in with_passage:
            return []
        others = [other for other in with_passage if other != phrasing]
        more = min(self.config.documents - 1, len(others))
        found = [phrasing, *(self._draw(f"documents {query}").sample(others, more) if more else [])]
        return [self.contents(names[0], relation, chosen) for chosen in found]

    def right_queries(self, question: Question) -> list[str]:
        """Return the oracle: the queries that lead to the truth, one a hop."""
        return [f"{phrasing} {name}" for name, _, phrasing in self._right_path(question)]

    def answer(self, question: Question) -> str:
        """Return the true answer."""
        return self.value(*self._right_path(question)[-1])

    @cached_property
    def held_out(self) -> list[str]:
        """Names that are subjects of validation questions only."""
        return self._draw("held out").sample(self.names, self.config.held_out_names)

    @cached_property
    def alternatives(self) -> dict[str, Sequence[str]]:
        """Every word of a phrasing -> the words that its place may have."""
        return {
            word: chosen
            for relation in self.relations
            for chosen in _places(relation, self.config.words, self.config.candidates)
            for word in chosen
        }

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

    def _draw(self, what: str) -> Random:
        return Random(f"{self.config.seed}/{what}")


def _places(relation: str, words: int, candidates: int) -> list[tuple[str, ...]]:
    """Return the candidate words at each place of a relation's phrasings; no two places share a word."""
    listed = RELATIONS[relation]
    return [listed[place * candidates : (place + 1) * candidates] for place in range(words)]


# Equal in all worlds of a difficulty, of which a warm start sees 144,000.
@cache
def _phrasings(relation: str, words: int, candidates: int) -> Sequence[str]:
    return tuple(" ".join(chosen) for chosen in product(*_places(relation, words, candidates)))


@cache
def _by_words(relations: int, words: int, candidates: int) -> dict[frozenset[str], tuple[str, str]]:
    """Return the words of a phrasing, in any order -> its relation and itself."""
    return {
        frozenset(phrasing.split()): (relation, phrasing)
        for relation in list(RELATIONS)[:relations]
        for phrasing in _phrasings(relation, words, candidates)
    }
