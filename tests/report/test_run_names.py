"""Short names of run folders, and the series that seeds belong to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sd_search_verl.errors import UserError
from sd_search_verl.report.run_names import Run, run_names
from sd_search_verl.runs.reader import read_metrics, read_traces

MakeRun = Callable[..., Path]


def test_names_are_the_shortest_that_differ() -> None:
    def names(*folders: str) -> list[str]:
        return run_names([Path(folder) for folder in folders])

    assert names("/x/a/run", "/x/b") == ["run", "b"]
    assert names("/x/a/run", "/x/b/run", "/x/b/c") == ["a/run", "b/run", "b/c"]
    with pytest.raises(UserError, match="given twice"):
        names("/x/a", "/x/b/../a")


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("sd-seed1", "sd"),
        ("sd_seed12", "sd"),
        ("sd-seed", "sd-seed"),
        ("sd-seed1-b", "sd-seed1-b"),
        ("-seed1", "-seed1"),
    ],
)
def test_a_trailing_seed_is_not_part_of_the_series(name: str, series: str, make_run: MakeRun) -> None:
    folder = make_run("run", [{"search/em": 0.5}])
    assert Run(name, read_metrics(folder), read_traces(folder)).series == series
