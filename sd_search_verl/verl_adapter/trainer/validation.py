"""Validation sessions that failed count as wrong in every metric of their question set.

verl leaves them out of all metrics but ``acc``, so that a run whose searches or scores fail would look better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np

BY_VERL = "acc"
"""The metric to which verl adds the failed sessions itself."""

OF_EVERY_SESSION = "reward"
"""The metric that verl takes from every session, of whichever question set."""


def add_failed_sessions(
    sources: Sequence[str],
    uids: Sequence[str],
    infos: Mapping[str, Sequence[Any]],
    expected: Mapping[tuple[str, str], int],
) -> tuple[list[str], list[str], dict[str, list[Any]], int]:
    """Return question set, question and values of every session, and the number of failed ones.

    A failed session's value is 0 in each metric that its question set reports, and None in the others: verl skips None.

    Args:
        sources: question set of each session that ended well.
        uids: its question.
        infos: values of each such session by metric; None where it has none.
        expected: sessions that were started, by question set and question.
    """
    ended = Counter(zip(map(str, sources), map(str, uids), strict=True))
    failed = [key for key, count in expected.items() for _ in range(count - ended[key])]
    failed_sources = [source for source, _ in failed]
    values = {
        name: [*found, *_values_of_failed(name, failed_sources, sources, found)]
        for name, found in infos.items()
    }
    return [*sources, *failed_sources], [*uids, *(uid for _, uid in failed)], values, len(failed)


def _values_of_failed(
    name: str, failed_sources: Sequence[str], sources: Sequence[str], found: Sequence[Any]
) -> list[float | None]:
    if name == BY_VERL:
        return [None] * len(failed_sources)
    # A set that lost every session does not show what it reports, but it has a reward in any case.
    counting = set(failed_sources) if name == OF_EVERY_SESSION else _sources_with_numbers(sources, found)
    return [0.0 if source in counting else None for source in failed_sources]


def _sources_with_numbers(sources: Sequence[str], found: Sequence[Any]) -> set[str]:
    """Return the question sets that report a metric, with numbers only."""
    known = [(str(source), value) for source, value in zip(sources, found, strict=True) if value is not None]
    return {source for source, _ in known} - {source for source, value in known if not _is_number(value)}


def _is_number(value: object) -> bool:
    # NumPy's bool is no Number, and its text is generic too.
    return isinstance(value, (Number, np.generic)) and not isinstance(value, str)
