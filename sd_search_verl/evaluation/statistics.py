"""Means with bootstrap intervals, macro and micro averages, mean and s.d. over seeds.

Also the inverse of a mean of batch means, for comparison with published tables.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; above, the normal's is close.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` values with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """Return field name -> value, for JSON."""
        return asdict(self)


def percent(estimate: Estimate) -> str:
    """Return mean and 95 % interval in per cent, such as ``42.1 [40.0, 44.2]``."""
    return f"{100 * estimate.mean:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def signed_percent(estimate: Estimate) -> str:
    """Return a difference and its interval in points, such as ``+1.2 [-0.3, +2.7]``."""
    return f"{100 * estimate.mean:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"


def bootstrap(values: Sequence[float], seed: int = 0) -> Estimate:
    """Return the mean of a value per question, with its percentile interval.

    Of differences of two runs, question by question, this resamples pairs. Where hardly any or nearly all answers are
    right it may be a point, which says nothing: with a true share of 1 %, 0.99^125 = 28 % of all samples of 125
    questions hold no right answer, and every resample of theirs has the mean 0.

    Raises:
        ValueError: there are no values.
    """
    return _estimate(float(np.mean(values)), _resampled_means(values, seed), len(values))


def macro_average(sets: Mapping[str, Sequence[float]]) -> Estimate:
    """Return the mean of the sets' means, with equal weights (as papers report); resampled within each set."""
    _need(sets)
    means = [_resampled_means(values, seed) for seed, values in enumerate(sets.values())]
    mean = float(np.mean([np.mean(values) for values in sets.values()]))
    return _estimate(mean, np.mean(means, axis=0), sum(map(len, sets.values())))


def micro_average(sets: Mapping[str, Sequence[float]]) -> Estimate:
    """Return the mean over all questions, in which large sets dominate; resampled within each set."""
    _need(sets)
    total = sum(map(len, sets.values()))
    means = [
        len(values) / total * _resampled_means(values, seed) for seed, values in enumerate(sets.values())
    ]
    mean = sum(float(np.sum(values)) for values in sets.values()) / total
    return _estimate(mean, np.sum(means, axis=0), total)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and sample standard deviation over seeds; a single value has no deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float]) -> Estimate:
    """Return the mean of a few values, such as one per seed, with Student's 95 % interval.

    The bootstrap is for hundreds of questions: over 4 normal values its interval covers the mean in 81 %.

    Raises:
        ValueError: there are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs at least two values, not {len(values)}")
    half = _t_quantile(len(values) - 1) * math.sqrt(_variance_of_mean(values))
    mean = statistics.fmean(values)
    return Estimate(mean, mean - half, mean + half, len(values))


def welch_interval(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Return mean(b) - mean(a) of two groups of a few values, such as one per training, with Welch's 95 % interval.

    With the variance v = s^2 / n of each group's mean, its half width is t(f) sqrt(v_a + v_b). The degrees of freedom f
    are Welch's and Satterthwaite's, (v_a + v_b)^2 / (v_a^2 / (n_a - 1) + v_b^2 / (n_b - 1)), rounded down, at least 1.

    Raises:
        ValueError: a group has fewer than two values.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"an interval needs at least two values a group, not {len(a)} and {len(b)}")
    variances = _variance_of_mean(a), _variance_of_mean(b)
    parts = sum(v**2 / (len(values) - 1) for v, values in zip(variances, (a, b), strict=True))
    # Where one group does not vary, f is a whole number, which a rounding error must not lower by one.
    freedom = max(1, math.floor(sum(variances) ** 2 / parts + 1e-9)) if parts else 1
    half = _t_quantile(freedom) * math.sqrt(sum(variances))
    mean = statistics.fmean(b) - statistics.fmean(a)
    return Estimate(mean, mean - half, mean + half, len(a) + len(b))


def undo_batch_mean(
    percent: float, n: int = 125, batch: int = 512, total: int = 51_713, rounding: float = 0.05
) -> list[int]:
    """Return every number of right answers whose mean of batch means prints as ``percent``.

    Some trainers average a metric in each validation batch and then average the batches. A set that ends the data
    and is cut by a batch boundary into ``n - r`` and ``r`` questions then gets ``(a / (n - r) + b / r) / 2`` in place
    of ``(a + b) / n``, where ``a`` and ``b`` are the right answers in the two parts. The defaults are Bamboogle at the
    end of the seven evaluation sets, 51,713 = 101 * 512 + 1: ``r = 1``, so that its last question weighs one half.

    Args:
        percent: the printed value.
        n: questions of the set, which are the last ``n`` of ``total``.
        batch: questions per validation batch.
        total: questions of all sets.
        rounding: largest difference, in per cent, between the printed and the exact value.

    Returns:
        counts between 0 and ``n``, ascending; empty if no count gives ``percent``.

    Raises:
        ValueError: ``percent`` is no percentage, or the set does not lie in at most two batches.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent is {percent}; it must be between 0 and 100")
    last = total % batch or batch
    if n < 1 or n > total or n > batch + last:
        rule = "it must have at least one, at most all of total, and lie in two batches"
        raise ValueError(f"the set has n={n} questions of total={total} in batches of {batch}; {rule}")
    parts = [n] if n <= last else [n - last, last]
    rights = itertools.product(*(range(size + 1) for size in parts))
    return sorted(
        {
            sum(right)
            for right in rights
            if abs(100 * statistics.fmean(a / size for a, size in zip(right, parts, strict=True)) - percent)
            <= rounding + 1e-9
        }
    )


def _variance_of_mean(values: Sequence[float]) -> float:
    """Return s^2 / n, with the sample variance s^2."""
    return statistics.variance(values) / len(values)


def _t_quantile(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t."""
    # Above the table: Fisher's expansion in 1 / freedom around the normal quantile, right to 1e-4 there.
    return _T[freedom - 1] if freedom <= len(_T) else 1.95996 + 2.3723 / freedom + 2.8224 / freedom**2


def _resampled_means(values: Sequence[float], seed: int) -> np.ndarray:
    """Return ``[RESAMPLES]`` means of ``len(values)`` values drawn with replacement.

    How often each distinct value is drawn is multinomial, and scores have few distinct values: this is the same
    distribution as drawing questions, in a fraction of the time.
    """
    if len(values) == 0:
        raise ValueError("there is no question to average over")
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=RESAMPLES)
    means: np.ndarray = draws @ distinct / len(values)
    return means


def _estimate(mean: float, resampled: np.ndarray, n: int) -> Estimate:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(mean, float(low), float(high), n)


def _need(sets: Mapping[str, Sequence[float]]) -> None:
    if not sets or not all(map(len, sets.values())):
        raise ValueError("there is no question to average over")
