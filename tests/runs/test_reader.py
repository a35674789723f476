"""Reading run files as they are found: unfinished, damaged, resumed, absent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd_search_verl.errors import UserError
from sd_search_verl.report.run_names import read_runs
from sd_search_verl.runs.reader import read_metrics, read_traces

MakeRun = Callable[..., Path]


def append(path: Path, text: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


def test_what_the_trainer_writes_is_read(make_run: MakeRun) -> None:
    run = make_run(
        "run", [{"search/em": 0.5}, {"search/em": float("nan")}], answers=["Jane Austen", "Bronte"]
    )
    metrics, traces = read_metrics(run), read_traces(run)
    assert metrics.steps[1] == {"search/em": 0.5}
    assert list(metrics.steps) == [1, 2]
    assert [(ref.step, ref.group) for ref in traces.refs] == [
        (s, f"{s}-Who wrote Emma?") for s in (1, 1, 2, 2)
    ]
    assert [trace.answer for trace in traces.load(traces.refs[1:3])] == ["Bronte", "Jane Austen"]
    assert metrics.counts.notes("metrics.jsonl") == traces.counts.notes("traces.jsonl") == []


def test_a_half_written_last_line_is_left_out_and_reported(make_run: MakeRun) -> None:
    run = make_run("run", [{"search/em": 0.5}], answers=["Jane Austen"])
    append(run / "metrics.jsonl", '{"step": 2, "search/e')
    append(run / "traces.jsonl", '{"step": 2, "group": "é'.encode()[:-1])
    metrics, traces = read_metrics(run), read_traces(run)
    assert list(metrics.steps) == [1]
    assert len(traces.refs) == 1
    assert metrics.counts.notes("m") == ["m: the last line is half-written and left out"]
    assert traces.counts.notes("t") == ["t: the last line is half-written and left out"]


@pytest.mark.parametrize(
    "line", ['{"step": 1, "a', "[1]", '{"a": 1.0}', '{"step": true}', '{"step": 2, "a": "x"}']
)
def test_bad_metrics_lines_are_counted(make_run: MakeRun, line: str) -> None:
    run = make_run("run", [{"search/em": 0.5}])
    append(run / "metrics.jsonl", line + "\n" + json.dumps({"step": 3, "search/em": 0.7}) + "\n")
    metrics = read_metrics(run)
    assert list(metrics.steps) == [1, 3]
    assert metrics.counts.notes("m") == ["m: 1 unreadable line left out"]


@pytest.mark.parametrize(
    "change",
    [
        {"mask": [1]},
        {"spans": [[7, 99]]},
        {"spans": [7]},
        {"tokens": None},
        {"step": "1"},
        {"credit": [0.1]},
        {"credit": [[0.1]]},
        {"divergence": [[0.1, 0.2], [0.3]]},
        {"credit": 7},
        {"answer": 3},
    ],
)
def test_bad_traces_are_counted(make_run: MakeRun, change: dict[str, Any]) -> None:
    run = make_run("run", [{"search/em": 0.5}], answers=["Jane Austen"])
    good = json.loads((run / "traces.jsonl").read_text())
    append(run / "traces.jsonl", json.dumps(good | change) + "\n" + json.dumps(good) + "\n")
    traces = read_traces(run)
    assert len(traces.refs) == 2
    assert traces.counts.notes("t") == ["t: 1 unreadable line left out"]


def test_traces_after_a_line_that_is_not_text_are_found(make_run: MakeRun) -> None:
    run = make_run("run", [{"search/em": 0.5}], answers=["Jane Austen"])
    good = (run / "traces.jsonl").read_bytes()
    append(run / "traces.jsonl", b"\xff and \xc3\xa9\n" + good.replace(b"Jane Austen", b"Bronte"))
    traces = read_traces(run)
    assert [trace.answer for trace in traces.load(traces.refs)] == ["Jane Austen", "Bronte"]
    assert traces.counts.bad == 1


def test_steps_done_again_after_a_resume_count_once(make_run: MakeRun) -> None:
    run = make_run("run", [{"search/em": n / 10} for n in range(4)], answers=["Jane Austen"])
    again = [json.loads(line) for line in (run / "traces.jsonl").read_text().splitlines()][1:3]
    for line in again:
        append(run / "traces.jsonl", json.dumps(line | {"group": "again"}) + "\n")
        append(run / "metrics.jsonl", json.dumps({"step": line["step"], "search/em": 0.9}) + "\n")
    metrics, traces = read_metrics(run), read_traces(run)
    assert {step: row["search/em"] for step, row in metrics.steps.items()} == {1: 0.0, 2: 0.9, 3: 0.9}
    assert [ref.group for ref in traces.refs] == ["1-Who wrote Emma?", "again", "again"]
    assert metrics.counts.notes("m") == ["m: 3 lines of steps done again after a resume left out"]
    assert traces.counts.superseded == 3


def test_missing_files_name_the_file_and_the_fix(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a folder; give the run's trainer.default_local_dir"):
        read_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl is missing: .* trainer\.default_local_dir"):
        read_runs([tmp_path / "empty"])
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"metrics\.jsonl holds no finished step; wait"):
        read_runs([tmp_path / "empty"])
    assert read_traces(make_run("untraced", [{"search/em": 0.5}])).refs == []
