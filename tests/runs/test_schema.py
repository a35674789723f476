"""One schema: a field that stands in it is written, read and shown, without further code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sd_search_verl.report import curves, trajectories
from sd_search_verl.report.run_names import read_runs
from sd_search_verl.runs import schema
from sd_search_verl.runs.reader import read_metrics, read_traces
from sd_search_verl.runs.schema import Trace
from sd_search_verl.runs.writer import append_metrics, append_traces

TRACE = Trace(
    step=3,
    group="g",
    prompt=[{"role": "user", "content": "Question: who?"}],
    response="<search> é</search>",
    tokens=["<search>", " \ufffd", "</search>"],
    mask=[1, 1, 1],
    queries=["é"],
    spans=[[1, 2]],
    gold_in_documents=[1],
    answer="Emma \ud83d",
    golden_answers=["Emma"],
    em=1.0,
    f1=0.5,
    score=0.25,
    status="answered",
    blocks=["1. CORRECT: é"],
    credit=[[0.75]],
    divergence=[[0.125]],
    versions=[[0, 3]],
)
OTHER: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "Question: when?"}],
    "response": "<search> ü</search>",
    "tokens": ["<search>", " \ufffd", " </search>"],
    "mask": [1, 1, 0],
    "spans": [[0, 1]],
    "gold_in_documents": [0],
    "credit": [[0.5]],
    "divergence": [[0.25]],
    "versions": [[0, 2], [2, 3]],
}
"""Another value of each field whose values must fit together; of the others :func:`changed` makes one."""


def replace(trace: Trace, **changes: Any) -> Trace:
    return Trace(**{**dict(trace), **changes})


def changed(trace: Trace, name: str) -> Trace:
    value = getattr(trace, name)
    if name in OTHER:
        return replace(trace, **{name: OTHER[name]})
    if isinstance(value, list):
        return replace(trace, **{name: [f"other {value[0]}"]})
    return replace(trace, **{name: f"other {value}" if isinstance(value, str) else value - 1})


def shown(folder: Path, traces: list[Trace]) -> str:
    """The data of the report's viewer."""
    append_metrics(folder, 3, {"search/em": 0.5})
    append_traces(folder, traces)
    return json.dumps(trajectories.build(read_runs([folder]), limit=10))


@pytest.mark.parametrize("name", Trace.model_fields)
def test_every_field_of_a_trace_is_written_read_and_shown(name: str, tmp_path: Path) -> None:
    other = changed(TRACE, name)
    assert getattr(other, name) != getattr(TRACE, name)
    assert shown(tmp_path / "other", [other, TRACE]) != shown(tmp_path / "same", [TRACE, TRACE])
    traces = read_traces(tmp_path / "other")
    assert list(traces.load(traces.refs)) == [other, TRACE]


def test_a_field_without_a_place_on_the_page_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = trajectories._PLACED - {"status", "gold_in_documents"}
    monkeypatch.setattr(trajectories, "_PLACED", placed)
    assert '"more": {"gold_in_documents": "[1]", "status": "answered", "versions": "[[0, 3]]"}' in shown(
        tmp_path, [TRACE]
    )


def test_a_trace_of_an_earlier_version_is_readable(tmp_path: Path) -> None:
    """Without version, credit and divergence."""
    line = TRACE.to_line()
    for name in ("version", "credit", "divergence"):
        del line[name]
    (tmp_path / "traces.jsonl").write_text(json.dumps(line) + "\n")
    traces = read_traces(tmp_path)
    assert list(traces.load(traces.refs)) == [replace(TRACE, credit=[], divergence=[])]


def test_a_trace_of_a_later_version_is_left_out_and_said(tmp_path: Path) -> None:
    line = {**TRACE.to_line(), "version": schema.FORMAT_VERSION + 1}
    (tmp_path / "traces.jsonl").write_text(json.dumps(line) + "\n")
    traces = read_traces(tmp_path)
    assert traces.refs == []
    assert traces.counts.notes("t") == ["t: 1 line of a newer format left out; update sd_search_verl"]


def test_every_metric_of_the_plugin_is_written_read_and_drawn(tmp_path: Path) -> None:
    metrics = {"search/new": 0.5, "sd_search/family/a": 0.25, "sd_search/family/b": 0.125, "search/em": 1.0}
    append_metrics(tmp_path, 1, metrics)
    assert read_metrics(tmp_path).steps == {1: metrics}
    panels = [
        panel for section in curves.build(read_runs([tmp_path]))["sections"] for panel in section["panels"]
    ]
    drawn = {metric: panel["title"] for panel in panels for metric in panel["metrics"].values()}
    family = "sd_search/family"
    assert drawn == {
        "search/em": "Exact match",
        "search/new": "search/new",
        f"{family}/a": family,
        f"{family}/b": family,
    }
