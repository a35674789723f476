"""Signs of credit and advantage: on a made-up group, and the figures of docs/credit.md from their CSV."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from support.run_folders import add_step

from benchmarks.world import credit
from benchmarks.world.credit import Decision, decisions, shares

REPO = Path(__file__).resolve().parents[3]
PAGE = (REPO / "docs" / "credit.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def recorded() -> list[Decision]:
    with (REPO / "benchmarks" / "world" / "credit.csv").open(encoding="utf-8", newline="") as file:
        return [
            Decision(
                step=int(row["step"]),
                question=row["question"],
                kind=row["kind"],
                rollout=int(row["rollout"]),
                outcome=row["outcome"],
                query=row["query"],
                right=row["right"] == "True",
                credit=float(row["credit"]),
                divergence=float(row["divergence"]),
                advantage=float(row["advantage"]),
            )
            for row in csv.DictReader(file)
        ]


def decision(kind: str, right: bool, value: float, advantage: float) -> Decision:
    return Decision(1, "q", kind, 1, "CORRECT", "a b", right, value, 0.1, advantage)


def test_a_sign_is_right_when_it_is_that_of_the_oracle() -> None:
    found = shares(
        [
            decision("mixed", True, 0.5, 1.0),
            decision("mixed", True, 0.5, -1.0),
            decision("mixed", False, -0.5, -1.0),
            decision("mixed", False, 0.5, 1.0),
            decision("all incorrect", False, -0.1, 0.0),
        ]
    )
    assert [(row["kind"], row["queries"], row["credit"], row["advantage"]) for row in found] == [
        ("mixed", 4, 0.75, 0.5),
        ("all incorrect", 1, 1.0, 0.0),
    ]


def test_a_run_without_credit_has_no_decisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "oracle.json").write_text('{"relations": {"mother": {"right": "parent"}}}')
    add_step(tmp_path, 1, {"search/em": 0.5}, ["Jane Austen", "Emma"], question="mother of Emma ?")
    assert list(decisions(tmp_path)) == []
    assert credit.main([str(tmp_path)]) == 1
    assert "has no scored query" in capsys.readouterr().err


def test_the_pages_shares_are_those_of_the_csv(recorded: list[Decision]) -> None:
    by_kind = {row["kind"]: row for row in credit.shares(recorded)}
    mixed = by_kind["mixed"]
    assert f"{mixed['queries']} scored queries in mixed groups" in PAGE
    assert f"| credit | {100 * float(str(mixed['credit'])):.1f} % |" in PAGE
    assert f"| GRPO's advantage | {100 * float(str(mixed['advantage'])):.1f} % |" in PAGE
    failed = by_kind["all incorrect"]
    assert f"{failed['queries']} queries in\n  such groups" in PAGE
    assert f"right in {100 * float(str(failed['credit'])):.1f} %" in PAGE
    assert (
        f"({by_kind['all correct']['queries']} queries) the divergence, summed over a query's tokens, is"
        in PAGE
    )
    punished = [d for d in recorded if d.kind == "mixed" and d.outcome == "INCORRECT" and d.right]
    assert f"INCORRECT rollouts with a right query: {len(punished)} of them" in PAGE
    assert all(d.advantage < 0 < d.credit for d in punished)


def test_the_pages_table_is_that_group(recorded: list[Decision]) -> None:
    group = [d for d in recorded if (d.step, d.question) == (6, "guard of neighbor of Yvonne ?")]
    rows = re.findall(
        r"\| `(\w+)` (\w+) \| (right|wrong) \| ([-+.\d]+) \| \**([-+.\d]+)\** \| ([.\d]+) \|", PAGE
    )
    assert len(rows) == 6
    for word, name, known, advantage, value, divergence in rows:
        assert any(
            d.query == f"{word} {name}"
            and d.right == (known == "right")
            and (d.advantage, d.credit, d.divergence) == (float(advantage), float(value), float(divergence))
            for d in group
        ), (word, name)
