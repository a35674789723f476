"""Folders that no evaluation wrote, or that lost a part, are named and not compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.saved_evaluation import save

from sd_search_verl.cli import main


def changed_row(folder: Path, **change: Any) -> Path:
    """A copy of an evaluation, one row of it changed, or without a field where that is None."""
    save(folder, {"s": [1, 0, 1]})
    path = folder / "trajectories.jsonl"
    first, *others = path.read_text().splitlines()
    row = {**json.loads(first), **change}
    path.write_text("\n".join([json.dumps({k: v for k, v in row.items() if v is not ...}), *others]) + "\n")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"em": float("nan")},
        {"em": "1"},
        {"f1": None},
        {"cover_em": 1.5},
        {"question": ...},
        {"answer": ...},
        {"golden_answers": "g"},
        {"id": [1]},
        {"id": 0},
        {"seed": "0"},
    ],
    ids=str,
)
def test_a_row_that_no_evaluation_wrote_is_named(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = save(tmp_path / "a", {"s": [1, 0, 1]}), changed_row(tmp_path / "b", **change)
    assert main(["compare", str(a), str(b)]) == 1
    said = capsys.readouterr().err
    assert str(b / "trajectories.jsonl") in said
    assert next(iter(change)) in said
    assert said.count("\n") == 1


def over_seeds(**values: float) -> dict[str, Any]:
    return {metric: {"values": values} for metric in ("em", "f1", "cover_em")}


@pytest.mark.parametrize(
    "change",
    [
        *({"config": None}, {"config": []}, {"config": {"search": []}}),
        *({"seeds": {}}, {"seeds": over_seeds(first=0.5)}, {"seeds": over_seeds()}),
        *({"sets": []}, {"sets": {"s": {"questions": "3"}}}),
        {"protocol_hash": None},
    ],
    ids=str,
)
def test_results_that_no_evaluation_wrote_are_named(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = save(tmp_path / "a", {"s": [1, 0, 1]})
    path = a / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert main(["compare", str(a), str(a)]) == 1
    assert f"{path} holds no results of `sd-search evaluate`" in capsys.readouterr().err


def test_trajectories_that_lost_rows_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line is half written, as a copy of a running evaluation has it."""
    a = save(tmp_path / "a", {"s": [1, 0, 1]})
    path = a / "trajectories.jsonl"
    path.write_text(path.read_text()[:-20])
    assert main(["compare", str(a), str(a)]) == 1
    assert f"{path} has 2 of the 3 questions of set s" in capsys.readouterr().err


def test_trajectories_that_lost_rows_of_a_seed_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = save(tmp_path / "a", {"s": [1, 0, 1]})
    path, results = a / "trajectories.jsonl", a / "results.json"
    (seed,) = {json.loads(line)["seed"] for line in path.read_text().splitlines()}
    of_two = json.loads(results.read_text())
    for metric in of_two["seeds"].values():
        metric["values"][str(seed + 1)] = 0.5
    results.write_text(json.dumps(of_two))
    assert main(["compare", str(a), str(a)]) == 1
    assert f"{path} has 0 of the 3 questions of set s, seed {seed + 1}" in capsys.readouterr().err
