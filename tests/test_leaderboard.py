"""The page of published results is made from its data, and the data are consistent with the arithmetic on the page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("leaderboard_tables", DOCS / "leaderboard_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_from_the_data(tables: ModuleType) -> None:
    text = tables.PAGE.read_text(encoding="utf-8")
    assert tables.page(text) == text, "run python docs/leaderboard_tables.py"


def test_every_row_has_a_source_or_is_marked_as_quoted(tables: ModuleType) -> None:
    for row in tables.read():
        assert row.read in {"text", "picture", "quoted"}, row.method
        assert row.metric in {"plain", "batches", "unknown"}, row.method
        assert row.source.startswith("https://") or row.read == "quoted", row.method


def test_every_mean_of_batch_means_has_one_count(tables: ModuleType) -> None:
    rows = [row for row in tables.read() if row.metric == "batches"]
    assert len(rows) > 25
    for row in rows:
        assert 0 <= row.right <= 125, row.method


def test_baselines_on_the_plain_metric_are_whole_counts(tables: ModuleType) -> None:
    """They stand in tables whose other rows are means of batch means, and no count gives them as one."""
    found = [row for row in tables.read() if row.metric == "plain" and row.read == "picture"]
    assert {(row.size, row.printed["bamboogle"]) for row in found} == {
        ("3B", 26.4),
        ("7B", 37.6),
        ("7B", 46.4),
    }
    for row in found:
        right = row.printed["bamboogle"] * 125 / 100
        assert right == pytest.approx(round(right))
        assert not any(count <= 60 for count in tables.undo_batch_mean(row.printed["bamboogle"]))


def test_columns_and_printed_average_agree_where_both_are_known(tables: ModuleType) -> None:
    """Three rows of the sources do not; the page says so beside each."""
    different = set()
    for row in tables.read():
        values = list(row.printed.values())
        if None not in values and row.average is not None and abs(sum(values) / 7 - row.average) > 0.11:
            different.add((row.size, row.method))
    assert different == {("3B", "ADRS"), ("7B", "ADRS"), ("7B", "GRSD")}


@pytest.mark.parametrize(
    ("size", "method", "corrected"),
    [("3B", "SDAR", 38.6), ("7B", "SDAR", 45.2), ("3B", "GRPO + OPSD", 39.9), ("7B", "GRSD", 45.7)],
)
def test_corrected_means(tables: ModuleType, size: str, method: str, corrected: float) -> None:
    (row,) = [row for row in tables.read() if (row.size, row.method) == (size, method)]
    columns = [row.printed[name] for name in tables.SETS if name != "bamboogle"]
    assert row.corrected == pytest.approx((sum(columns) + 100 * row.right / 125) / 7)
    assert round(row.corrected, 1) == corrected
