"""What the viewer is given of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sd_search_verl.report.run_names import read_runs
from sd_search_verl.report.trajectories import build

CALLS = [
    *[
        (text, 1)
        for text in ("<think>", "who", " wrote", " it", "</think>", "\n", "search", " author", " Emma")
    ],
    ("<tool_response>\nSearch is unavailable.\n</tool_response>", 0),
    ("search b", 1),
    ("<tool_response>\nDoc 1(Title: Emma) by JANE Austen\n</tool_response>", 0),
    ("search c", 1),
    ("<tool_response>\nDoc 1(Title: Dune) by Frank Herbert\n</tool_response>", 0),
    ("<answer> x </answer>", 1),
]


def test_documents_with_a_golden_answer_are_those_that_show_it(make_run: Callable[..., Path]) -> None:
    """Counted by searches, the mark would go to the next documents after a search that failed."""
    run = make_run("run", [{}], answers=["Jane Austen"], tokens=CALLS)
    (rollout,) = build(read_runs([run]), limit=9)["rollouts"]
    assert [part[2] for part in rollout["parts"] if part[0] == "documents"] == [True, False]
