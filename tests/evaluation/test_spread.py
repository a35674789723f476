"""Spreads over runs are those of questions that all of them asked, and pairs of runs differ on their common ones."""

from __future__ import annotations

import pytest

from sd_search_verl.evaluation.results import Rows
from sd_search_verl.evaluation.spread import over_pairs, spread_of


def rows_of(seed: int = 0, **sets: list[int]) -> Rows:
    return {
        (name, str(question), seed): {"em": score}
        for name, scores in sets.items()
        for question, score in enumerate(scores)
    }


A = [rows_of(x=[1, 0, 0, 0], y=[1, 1, 1, 0]), rows_of(x=[1, 1, 0, 0])]
B = [rows_of(x=[1, 1, 1, 0], y=[1, 1, 0, 0]), rows_of(x=[1, 1, 1, 1], y=[0, 0, 0, 0])]
COMPARED = {name: dict.fromkeys("0123", 0.0) for name in "xy"}


def test_a_run_that_lacks_a_set_does_not_shift_the_average_of_its_side() -> None:
    found = over_pairs(A, B, "em", COMPARED)
    assert found is not None
    first = ((0.75 - 0.25) + (0.5 - 0.75)) / 2
    second = 1.0 - 0.5  # of x, which both asked
    assert found["mean"] == pytest.approx((first + second) / 2)
    assert spread_of(A, "em", COMPARED)["values"] == [0.25, 0.5]
    assert spread_of(B, "em", COMPARED)["values"] == [pytest.approx(0.625), 0.5]


def test_without_pairs_or_a_common_question_there_is_no_interval() -> None:
    assert over_pairs(A[:1], B[:1], "em", COMPARED) is None
    assert over_pairs(A, B[:1], "em", COMPARED) is None
    assert over_pairs([A[0], rows_of(y=[1])], [B[0], rows_of(x=[1])], "em", COMPARED) is None
    apart = spread_of([rows_of(x=[1]), rows_of(y=[1])], "em", COMPARED)
    assert (apart["mean"], apart["sd"], apart["values"]) == (None, None, [])


def test_a_single_run_spreads_over_its_seeds() -> None:
    found = spread_of([rows_of(0, x=[1, 0]) | rows_of(1, x=[1, 1])], "em", COMPARED)
    assert (found["over"], found["values"]) == ("seeds", [0.5, 1.0])
