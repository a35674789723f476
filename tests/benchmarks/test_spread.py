"""The spread of repeats: quartiles that a single repeat has too."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.spread import quartiles


def test_a_single_repeat_is_its_own_spread() -> None:
    """As with ``--repeats 1`` or ``--rounds 1``."""
    assert quartiles([2.5]) == (2.5, 2.5, 2.5)


@pytest.mark.parametrize("count", [2, 5, 12])
def test_quartiles_are_those_of_the_standard_library(count: int) -> None:
    values = [float(number * number % 7) for number in range(count)]
    assert list(quartiles(values)) == statistics.quantiles(values, n=4)
