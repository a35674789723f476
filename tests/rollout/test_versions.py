"""Which weights sampled which token of a rollout."""

from __future__ import annotations

import random

import pytest

from sd_search_verl.rollout.types import Prompt, Rollout
from sd_search_verl.rollout.versions import mask_older_than, query_versions, version_at


def rollout(*turns: list[tuple[int, int]]) -> Rollout:
    """Turns of (tokens, version) attempts, with two tokens of an observation behind each."""
    made = Rollout(Prompt("q", [], [1]))
    for attempts in turns:
        count = sum(size for size, _ in attempts)
        made.add_turn([7] * count, [-1.0] * count, attempts)
        made.add_observation([8, 8])
    return made


def test_attempts_of_one_version_are_one_entry() -> None:
    made = rollout([(2, 4), (0, 4), (3, 4)], [(0, 5), (1, 6)], [(2, 6)])
    assert made.versions == [(0, 4), (7, 6)]


@pytest.mark.parametrize("seed", range(5))
def test_every_token_has_the_version_of_its_attempt(seed: int) -> None:
    rng = random.Random(seed)
    turns = [[(rng.randrange(4), rng.randrange(6)) for _ in range(3)] for _ in range(4)]
    made, expected = rollout(*turns), []
    for attempts in turns:
        expected += [version for size, version in attempts for _ in range(size)] + [None, None]
    assert len(expected) == len(made.response_ids)
    for token, version in enumerate(expected):
        assert version is None or version_at(made, token) == version


def test_versions_of_queries_are_of_tokens_that_are_trained_on() -> None:
    made = rollout([(3, 1), (3, 2)])
    made.queries, made.spans = ["a"], [(1, 5)]
    assert query_versions(made) == [1, 1, 2, 2]
    made.response_mask[4] = 0  # rejected by rollout correction
    assert query_versions(made) == [1, 1, 2]
    made.versions = []
    assert query_versions(made) == []


def test_older_tokens_are_masked_and_nothing_else() -> None:
    made = rollout([(2, 1), (2, 2)], [(1, 3)])
    assert made.response_mask == [1, 1, 1, 1, 0, 0, 1, 0, 0]
    assert mask_older_than(made, 2).response_mask == [0, 0, 1, 1, 0, 0, 1, 0, 0]
    assert mask_older_than(made, 9).response_mask == [0] * 9
    assert mask_older_than(made, 0) == made
    assert made.response_mask == [1, 1, 1, 1, 0, 0, 1, 0, 0]
    unknown = rollout([])
    assert mask_older_than(unknown, 5) == unknown
