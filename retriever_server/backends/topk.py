"""Find the largest scores of each query in one pass over the scores."""

from __future__ import annotations

import numpy as np

GROUP = 128  # neighbouring scores; the first pass reads only the largest of each group


def top_columns(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``count`` largest of each row of ``scores[queries, m]``, unordered; all ``m`` where there are fewer.

    The largest ``count`` scores are in the ``count`` groups with the largest maxima, so only those groups are searched.
    Which of several equal scores is selected is undefined.

    Returns:
        Their values and columns, each ``[queries, min(count, m)]``.
    """
    queries, width = scores.shape
    count = min(count, width)
    groups = width // GROUP
    whole = np.arange(groups)[None].repeat(queries, 0)
    if groups > count:
        maxima = scores[:, : groups * GROUP].reshape(queries, groups, GROUP).max(2)
        whole = np.argpartition(maxima, groups - count, axis=1)[:, groups - count :]
    inside = (whole[:, :, None] * GROUP + np.arange(GROUP)).reshape(queries, -1)
    rest = np.arange(groups * GROUP, width)[None].repeat(queries, 0)
    columns = np.concatenate([inside, rest], 1)
    return _largest(np.take_along_axis(scores, columns, 1), columns, count)


def merge_columns(parts: list[tuple[np.ndarray, np.ndarray]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``count`` largest of several (values, columns) of the same queries."""
    values, columns = (np.concatenate(arrays, 1) for arrays in zip(*parts, strict=True))
    return _largest(values, columns, min(count, values.shape[1]))


def _largest(values: np.ndarray, columns: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    best = np.argpartition(values, values.shape[1] - count, axis=1)[:, values.shape[1] - count :]
    return np.take_along_axis(values, best, 1), np.take_along_axis(columns, best, 1)
