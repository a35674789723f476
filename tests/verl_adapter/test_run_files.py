"""metrics.jsonl and traces.jsonl: whole groups, whole lines, also after a run was killed in mid-write."""

from __future__ import annotations

import json
from pathlib import Path

from support.engine import recorded_rows
from support.tiny import byte_tokenizer

from sd_search_verl.verl_adapter.run_files import append_metrics, append_traces


def test_half_a_line_stays_alone(tmp_path: Path) -> None:
    append_metrics(tmp_path, 1, {"a": 0.5, "text": "no scalar", "b": 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "a"')
    append_metrics(tmp_path, 2, {"a": 0.25})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"step": 1, "a": 0.5, "b": 2.0}
    assert lines[1] == '{"step": 2, "a"'
    assert json.loads(lines[2]) == {"step": 2, "a": 0.25}


def test_traces_come_in_whole_groups(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    rollouts = [row.rollout for row in recorded_rows(tokenizer, groups=3, size=4)]
    record = {
        "gold_in_documents": [],
        "answer": "\ud800",  # half a surrogate pair, as a policy may write it
        "golden_answers": ["x"],
        "em": 0.0,
        "f1": 0.0,
        "status": "answered",
    }
    records = [{**record, "response": r.response, "queries": r.queries, "spans": r.spans} for r in rollouts]
    tokens = [[tokenizer.decode([t]) for t in r.response_ids] for r in rollouts]
    append_traces(tmp_path, 5, rollouts, records, [0.0] * 12, None, tokens, limit=10)
    traces = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]
    assert [trace["group"] for trace in traces] == ["0"] * 4 + ["1"] * 4
    assert {trace["step"] for trace in traces} == {5}
    assert all(len(trace["tokens"]) == len(trace["mask"]) for trace in traces)
    assert all(trace["blocks"] == [] for trace in traces)
