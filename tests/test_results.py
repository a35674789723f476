"""Stated figures are those of the CSVs: the summary is recomputed, the page is made from it, README repeats it."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import summary

REPO = Path(__file__).resolve().parents[1]
SUMMARY = {
    "effect": "acceptance: rollouts to 50 %, ratio",
    "real questions": "SmolLM2, held-out margin, SD-Search - GRPO, nats",
    "overhead": "CPU training step, ratio",
    "retriever": "BM25, 256 clients, 0 % repeats: queries a second",
    "correctness": "gradient of L_SD against plain PyTorch",
}
"""Row of README's table -> its figure in benchmarks/summary.csv."""


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, str]]:
    with summary.CSV.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def table_of_readme() -> Iterator[list[str]]:
    text = (
        (REPO / "README.md")
        .read_text(encoding="utf-8")
        .partition("## What is measured")[2]
        .partition("\n## ")[0]
    )
    for line in re.findall(r"^\|(.*)\|$", text, re.MULTILINE)[2:]:
        yield [cell.strip() for cell in line.split("|")]


def test_the_summary_is_recomputed_from_the_measurements(tmp_path: Path) -> None:
    summary.write(tmp_path / "summary.csv")
    made = (tmp_path / "summary.csv").read_text(encoding="utf-8")
    assert made == summary.CSV.read_text(encoding="utf-8"), "run python -m benchmarks.summary"


def test_the_page_of_results_is_made_from_the_summary() -> None:
    spec = importlib.util.spec_from_file_location("results_tables", REPO / "docs" / "results_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.page(text) == text, "run python docs/results_tables.py"


def test_every_figure_of_readme_stands_in_its_csv(figures: dict[str, dict[str, str]]) -> None:
    rows = list(table_of_readme())
    assert [row[0] for row in rows] == list(SUMMARY)
    for what, number, _, evidence in rows:
        row = figures[SUMMARY[what]]
        assert number == row["figure"], what
        assert f"benchmarks/{row['csv']}" in evidence, what


def test_counts_in_readmes_table_are_those_of_the_csv(figures: dict[str, dict[str, str]]) -> None:
    words = {row[0]: row[2] for row in table_of_readme()}
    assert figures[SUMMARY["effect"]]["spread"] in words["effect"]
    assert figures[SUMMARY["real questions"]]["spread"].partition(";")[0] in words["real questions"]
    (variants,) = re.findall(r"largest of (\d+)", figures[SUMMARY["correctness"]]["spread"])
    assert f"{variants} variants" in words["correctness"]


def test_every_figure_has_a_file_a_command_and_a_date(figures: dict[str, dict[str, str]]) -> None:
    for name, row in figures.items():
        assert "*" in row["csv"] or (REPO / "benchmarks" / row["csv"]).exists(), name
        assert row["command"], name
        assert re.fullmatch(r"2026-\d\d-\d\d", row["date"]), name
        assert row["device"], name


@pytest.mark.parametrize("table", sorted((REPO / "benchmarks").rglob("*.csv")), ids=lambda path: path.stem)
def test_every_row_of_a_table_is_whole_and_names_its_device(table: Path) -> None:
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    for row in rows:
        assert None not in row, row  # more cells than columns, as of a comma without quotes
        assert None not in row.values(), row
        assert re.search("[A-Za-z]", row["device"]), row
