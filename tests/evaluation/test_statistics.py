"""Intervals and averages, each against a naive twin."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from sd_search_verl.evaluation.statistics import (
    Estimate,
    bootstrap,
    macro_average,
    mean_and_sd,
    micro_average,
    percent,
    signed_percent,
    t_interval,
    undo_batch_mean,
    welch_interval,
)

DRAW = random.Random(0)
F1 = [DRAW.choice([0.0, 0.0, 0.5, 2 / 3, 1.0, DRAW.random()]) for _ in range(150)]
EM = [float(DRAW.random() < 0.3) for _ in range(400)]


def naive_interval(means: list[float]) -> tuple[float, float]:
    means = sorted(means)
    return means[round(0.025 * len(means))], means[round(0.975 * len(means))]


def naive_means(values: list[float], resamples: int = 2000) -> list[float]:
    draw = random.Random(1)
    return [statistics.fmean(draw.choices(values, k=len(values))) for _ in range(resamples)]


@pytest.mark.parametrize("values", [F1, EM, [1.0] * 20])
def test_the_interval_is_that_of_drawing_questions(values: list[float]) -> None:
    found = bootstrap(values)
    low, high = naive_interval(naive_means(values))
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.n == len(values)
    # Two resamplings of 2,000 and 10,000 agree within a few per cent of the width.
    tolerance = 0.08 * (high - low) + 1e-12
    assert found.low == pytest.approx(low, abs=tolerance)
    assert found.high == pytest.approx(high, abs=tolerance)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    draw, inside = random.Random(2), 0
    for trial in range(200):
        found = bootstrap([float(draw.random() < 0.4) for _ in range(200)], seed=trial)
        inside += found.low <= 0.4 <= found.high
    assert 0.90 < inside / 200 < 0.99


def test_paired_differences_are_narrower_than_unpaired_ones() -> None:
    better = [min(1.0, value + 0.1) for value in F1]
    differences = [b - a for a, b in zip(F1, better, strict=True)]
    found, naive = bootstrap(differences), naive_interval(naive_means(differences))
    assert found.mean == pytest.approx(statistics.fmean(better) - statistics.fmean(F1))
    assert (found.low, found.high) == pytest.approx(naive, abs=0.005)
    assert found.low > 0  # the intervals of the two means overlap, their difference is certain
    assert bootstrap(F1).high > bootstrap(better).low


def test_macro_counts_sets_and_micro_counts_questions() -> None:
    sets = {"large": [0.0] * 900 + [1.0] * 100, "small": [1.0] * 8 + [0.0] * 2}
    assert macro_average(sets).mean == pytest.approx((0.1 + 0.8) / 2)
    assert micro_average(sets).mean == pytest.approx(108 / 1010)
    draws = {name: naive_means(values) for name, values in sets.items()}
    macro = [(a + b) / 2 for a, b in zip(draws["large"], draws["small"], strict=True)]
    micro = [(1000 * a + 10 * b) / 1010 for a, b in zip(draws["large"], draws["small"], strict=True)]
    for found, naive in (
        (macro_average(sets), naive_interval(macro)),
        (micro_average(sets), naive_interval(micro)),
    ):
        assert (found.low, found.high) == pytest.approx(naive, rel=0.1)


def test_of_one_set_both_averages_are_its_mean() -> None:
    assert macro_average({"a": F1}) == micro_average({"a": F1}) == bootstrap(F1)


def test_the_same_seed_gives_the_same_interval() -> None:
    assert bootstrap(F1, seed=3) == bootstrap(F1, seed=3) != bootstrap(F1, seed=4)


def test_mean_and_sd_over_seeds() -> None:
    assert mean_and_sd([0.40, 0.42, 0.44]) == pytest.approx((0.42, 0.02))
    assert mean_and_sd([0.4]) == (0.4, None)


def share_within(quantile: float, freedom: int) -> float:
    """The probability of Student's t between -quantile and quantile, by the trapezoids of its density."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    points = [quantile * place / 5000 for place in range(5001)]
    density = [scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2) for x in points]
    return 2 * quantile / 5000 * (sum(density) - (density[0] + density[-1]) / 2)


@pytest.mark.parametrize("freedom", [*range(1, 36), 40, 60, 99, 500])
def test_the_interval_over_seeds_holds_95_per_cent_of_students_t(freedom: int) -> None:
    values = [float(value) for value in range(freedom + 1)]
    found = t_interval(values)
    assert found.n == freedom + 1
    assert found.mean == pytest.approx(freedom / 2)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    quantile = (found.high - found.mean) * math.sqrt(freedom + 1) / statistics.stdev(values)
    assert share_within(quantile, freedom) == pytest.approx(0.95, abs=6e-5)


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least two values, not 1"):
        t_interval([0.5])


def naive_welch(a: list[float], b: list[float]) -> tuple[float, int, float]:
    """Difference, degrees of freedom rounded down, and standard error of two groups, as textbooks write them."""
    means = [sum(values) / len(values) for values in (a, b)]
    sums = [sum((x - mean) ** 2 for x in values) for values, mean in zip((a, b), means, strict=True)]
    errors = [s / (len(values) - 1) / len(values) for s, values in zip(sums, (a, b), strict=True)]
    freedom = sum(errors) ** 2 / sum(
        e**2 / (len(values) - 1) for e, values in zip(errors, (a, b), strict=True)
    )
    return means[1] - means[0], int(freedom), math.sqrt(sum(errors))


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2), (2, 9), (5, 4), (12, 3), (40, 60)])
def test_the_interval_of_two_groups_is_welchs(sizes: tuple[int, int]) -> None:
    draw = random.Random(sum(sizes))
    a, b = ([draw.gauss(0.4, 0.01 * (place + 1)) for _ in range(n)] for place, n in enumerate(sizes))
    found, (difference, freedom, error) = welch_interval(a, b), naive_welch(a, b)
    assert found.n == sum(sizes)
    assert found.mean == pytest.approx(difference)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert share_within((found.high - found.mean) / error, freedom) == pytest.approx(0.95, abs=6e-5)


def test_welchs_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw, inside = random.Random(3), 0
    for _ in range(2000):
        a, b = ([draw.gauss(0, sd) for _ in range(n)] for n, sd in ((2, 1.0), (3, 2.0)))
        found = welch_interval(a, b)
        inside += found.low <= 0 <= found.high
    assert 0.94 < inside / 2000 < 0.99


def test_where_one_group_does_not_vary_the_freedom_is_that_of_the_other() -> None:
    for b in ([0.1, 0.2, 0.4, 0.5], [0.2, 0.3, 0.5], [0.1 * k for k in range(7)]):
        assert welch_interval([0.0, 0.0], b).high == pytest.approx(t_interval(b).high)
    point = welch_interval([0.25, 0.25], [0.5, 0.5, 0.5])
    assert (point.mean, point.low, point.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(("a", "b"), [([0.5], [0.5, 0.6]), ([0.5, 0.6], [])])
def test_a_side_of_one_run_has_no_welch_interval(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match=f"at least two values a group, not {len(a)} and {len(b)}"):
        welch_interval(a, b)


def test_without_a_right_answer_the_percentile_interval_is_a_point() -> None:
    """As the docstring warns: of 125 questions with a true share of 1 % that is so in 28 % of the cases."""
    draw = random.Random(4)
    found = [bootstrap([float(draw.random() < 0.01) for _ in range(125)], seed) for seed in range(400)]
    assert sum(e.low == e.high for e in found) / 400 == pytest.approx(0.99**125, abs=0.06)


def test_nothing_to_average_is_an_error() -> None:
    for call in (lambda: bootstrap([]), lambda: macro_average({}), lambda: micro_average({"a": []})):
        with pytest.raises(ValueError, match="no question"):
            call()


def batch_mean(right_before: int, right_last: int) -> float:
    """124 of Bamboogle's 125 questions end one validation batch, the last one is alone in the next."""
    return (right_before / 124 + right_last / 1) / 2


def test_estimates_are_shown_in_per_cent_and_in_points() -> None:
    assert percent(Estimate(0.421, 0.4, 0.442, 10)) == "42.1 [40.0, 44.2]"
    assert signed_percent(Estimate(0.012, -0.003, 0.027, 10)) == "+1.2 [-0.3, +2.7]"


@pytest.mark.parametrize(
    ("share", "counts"),
    [
        (66.1, [41]),
        (73.0, [58]),
        (59.7, [25]),
        (21.4, [53]),  # the last question is wrong: below 50
        (0.0, [0]),
        (100.0, [125]),
        (26.4, []),  # 33 of 125: a plain share
        (37.6, []),  # 47 of 125
        (66.2, []),
    ],
)
def test_a_mean_of_batch_means_is_undone(share: float, counts: list[int]) -> None:
    assert undo_batch_mean(share) == counts


def test_every_count_is_found_again_from_its_printed_batch_mean() -> None:
    for right in range(126):
        possible = [batch_mean(right - last, last) for last in (0, 1) if 0 <= right - last <= 124]
        assert possible
        for mean in possible:
            assert right in undo_batch_mean(round(100 * mean, 1)), (right, mean)


def test_a_set_within_one_batch_is_a_plain_share() -> None:
    assert undo_batch_mean(26.4, n=125, batch=512, total=512) == [33]
    assert undo_batch_mean(26.5, n=125, batch=512, total=512) == []


def test_a_wider_rounding_finds_the_nearest_count() -> None:
    assert undo_batch_mean(66.2, rounding=0.1) == [41]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"percent": 100.2}, "between 0 and 100"),
        ({"percent": 50.0, "n": 600}, "two batches"),
        ({"percent": 50.0, "n": 0}, "at least one"),
        ({"percent": 50.0, "total": 100}, "at most all"),
    ],
)
def test_what_cannot_be_a_batch_mean_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        undo_batch_mean(**wrong)  # type: ignore[arg-type]
