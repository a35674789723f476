"""Spreads over runs are those of questions that all of them asked, and pairs of runs differ on their common ones."""

from __future__ import annotations

from statistics import fmean

import pytest

from sd_search_verl.evaluation.results import Rows
from sd_search_verl.evaluation.spread import over_runs, spread_of
from sd_search_verl.evaluation.statistics import t_interval, welch_interval


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
    found = over_runs(A, B, "em", COMPARED)
    assert found is not None
    assert found["over"] == "2 pairs of runs"
    assert found["sets"]["x"]["mean"] == pytest.approx(((0.75 - 0.25) + (1.0 - 0.5)) / 2)
    assert found["sets"]["y"] is None  # one pair has no interval
    assert found["macro"] is found["micro"] is None  # nor has an average over other sets in each pair
    assert spread_of(A, "em", COMPARED)["values"] == [0.25, 0.5]
    assert spread_of(B, "em", COMPARED)["values"] == [pytest.approx(0.625), 0.5]


def test_equally_many_runs_are_paired_in_their_order_per_set_and_in_both_averages() -> None:
    a = [rows_of(x=[1, 0, 0, 0], y=[1, 1]), rows_of(x=[1, 1, 0, 0], y=[0, 1])]
    b = [rows_of(x=[1, 1, 1, 0], y=[1, 0]), rows_of(x=[1, 1, 1, 1], y=[1, 1])]
    compared = {"x": dict.fromkeys("0123", 0.0), "y": dict.fromkeys("01", 0.0)}
    expected = {"x": [0.5, 0.5], "y": [-0.5, 0.5]}
    found = over_runs(a, b, "em", compared)
    assert found == {
        "over": "2 pairs of runs",
        "sets": {name: t_interval(values).as_dict() for name, values in expected.items()},
        "macro": t_interval([0.0, 0.5]).as_dict(),
        "micro": pytest.approx(t_interval([1 / 6, 3 / 6]).as_dict()),
    }


def test_of_other_counts_of_runs_the_interval_is_welchs_over_questions_that_all_asked() -> None:
    a = [rows_of(x=[1, 0, 0, 0]), rows_of(x=[1, 1, 0])]
    b = [rows_of(x=[1, 1, 1, 0]), rows_of(x=[1, 1, 1, 1]), rows_of(x=[1, 0, 1, 1])]
    found = over_runs(a, b, "em", {"x": COMPARED["x"]})
    assert found is not None
    sides = [[fmean(rows["x", q, 0]["em"] for q in "012") for rows in side] for side in (a, b)]
    assert found["over"] == "2 and 3 runs"
    assert found["sets"]["x"] == welch_interval(*sides).as_dict() == found["macro"] == found["micro"]
    assert found["macro"]["n"] == 5


def test_without_several_runs_a_side_or_a_common_question_there_is_no_interval() -> None:
    assert over_runs(A[:1], B[:1], "em", COMPARED) is None
    assert over_runs(A, B[:1], "em", COMPARED) is None
    none = {"over": "2 pairs of runs", "sets": {"x": None, "y": None}, "macro": None, "micro": None}
    assert over_runs([A[0], rows_of(y=[1])], [B[0], rows_of(x=[1])], "em", COMPARED) == none
    apart = spread_of([rows_of(x=[1]), rows_of(y=[1])], "em", COMPARED)
    assert (apart["mean"], apart["sd"], apart["values"]) == (None, None, [])


def test_a_single_run_spreads_over_its_seeds() -> None:
    found = spread_of([rows_of(0, x=[1, 0]) | rows_of(1, x=[1, 1])], "em", COMPARED)
    assert (found["over"], found["values"]) == ("seeds", [0.5, 1.0])
