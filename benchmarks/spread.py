"""The spread of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile; a single value is all three."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else (*values,) * 3
    return low, middle, high
