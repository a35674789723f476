"""Validation sessions that failed count as wrong in every metric.

verl leaves them out of all metrics but ``acc``, so that a run whose searches or scores fail would look better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

BY_VERL = "acc"
"""The metric to which verl adds the failed sessions itself."""


def add_failed_sessions(
    sources: Sequence[str],
    uids: Sequence[str],
    infos: Mapping[str, Sequence[Any]],
    expected: Mapping[tuple[str, str], int],
) -> tuple[list[str], list[str], dict[str, list[Any]], int]:
    """Return question set, question and values of every session, and the number of failed ones, whose values are 0.

    Args:
        sources: question set of each session that ended well.
        uids: its question.
        infos: values of each such session by metric; None where it has none.
        expected: sessions that were started, by question set and question.
    """
    ended = Counter(zip(map(str, sources), map(str, uids), strict=True))
    failed = [key for key, count in expected.items() for _ in range(count - ended[key])]
    values = {name: [*found, *([_wrong(name, found)] * len(failed))] for name, found in infos.items()}
    all_sources = [*sources, *(source for source, _ in failed)]
    return all_sources, [*uids, *(uid for _, uid in failed)], values, len(failed)


def _wrong(name: str, found: Sequence[Any]) -> float | None:
    known = [value for value in found if value is not None]
    is_number = all(isinstance(value, (bool, int, float)) for value in known)
    return 0.0 if is_number and name != BY_VERL else None
