"""Selecting the best scores, against a full sort."""

import numpy as np
import pytest

from retriever_server.backends.topk import GROUP, merge_columns, top_columns


def sorted_values(scores: np.ndarray, count: int) -> np.ndarray:
    return -np.sort(-scores, axis=1)[:, :count]


@pytest.mark.parametrize("width", [1, 5, GROUP - 1, GROUP, 3 * GROUP + 7, 60 * GROUP, 60 * GROUP + 1])
@pytest.mark.parametrize("count", [1, 3, 19, 200])
@pytest.mark.parametrize("kind", ["normal", "ties", "rising"])
def test_the_values_of_a_full_sort(width: int, count: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    scores = {
        "normal": rng.standard_normal((7, width)),
        "ties": rng.integers(0, 3, (7, width)),
        "rising": np.arange(7 * width).reshape(7, width),
    }[kind].astype(np.float32)
    values, columns = top_columns(scores, count)
    assert values.shape == columns.shape == (7, min(count, width))
    assert np.array_equal(-np.sort(-values, axis=1), sorted_values(scores, count))
    assert np.array_equal(np.take_along_axis(scores, columns, 1), values)
    assert all(len(set(row)) == len(row) for row in columns.tolist())


def test_parts_merge_to_the_whole() -> None:
    scores = np.random.default_rng(1).standard_normal((4, 1000)).astype(np.float32)
    parts = []
    for start in (0, 10, 600):
        end = {0: 10, 10: 600, 600: 1000}[start]
        values, columns = top_columns(scores[:, start:end], 19)
        parts.append((values, columns + start))
    values, columns = merge_columns(parts, 19)
    assert np.array_equal(-np.sort(-values, axis=1), sorted_values(scores, 19))
    assert np.array_equal(np.take_along_axis(scores, columns, 1), values)
