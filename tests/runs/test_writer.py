"""metrics.jsonl and traces.jsonl: whole groups, whole lines, each step once, also after a run was killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.engine import recorded_rows
from support.faults import files_no_larger_than
from support.tiny import byte_tokenizer

from sd_search_verl.launch.log_diagnosis import diagnose
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.runs.resume import add_to_last_step, save_with_checkpoint, truncate_after
from sd_search_verl.runs.schema import Trace
from sd_search_verl.runs.writer import append_metrics, append_traces, select_traced


def test_half_a_line_stays_alone(tmp_path: Path) -> None:
    append_metrics(tmp_path, 1, {"a": 0.5, "text": "no scalar", "b": 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "a"')
    append_metrics(tmp_path, 2, {"a": 0.25})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"step": 1, "a": 0.5, "b": 2.0}
    assert lines[1] == '{"step": 2, "a"'
    assert json.loads(lines[2]) == {"step": 2, "a": 0.25}


def rollouts_of_three_groups() -> list[Rollout]:
    rollouts = [row.rollout for row in recorded_rows(byte_tokenizer(), groups=3, size=4)]
    for rollout in rollouts:
        rollout.answer = "\ud800"  # half a surrogate pair, as a policy may write it
    return rollouts


def add_traces(folder: Path, number: int) -> None:
    rollouts = rollouts_of_three_groups()
    chosen = [rollouts[i] for i in select_traced(rollouts, limit=10)]
    append_traces(folder, [Trace.of(number, r, 0.0, list(map(chr, r.response_ids))) for r in chosen])


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_traces_come_in_whole_groups(tmp_path: Path) -> None:
    add_traces(tmp_path, 5)
    traces = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]
    assert [trace["group"] for trace in traces] == ["0"] * 4 + ["1"] * 4
    assert {trace["step"] for trace in traces} == {5}
    assert all(len(trace["tokens"]) == len(trace["mask"]) for trace in traces)
    assert all(trace["blocks"] == trace["credit"] == trace["divergence"] == [] for trace in traces)


def test_files_end_with_the_checkpoint_that_a_run_goes_on_from(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        append_metrics(tmp_path, number, {"a": number})
        add_traces(tmp_path, number)
    for name in ("metrics.jsonl", "traces.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"step": 4, "a"')
    assert truncate_after(tmp_path, 2, tmp_path / "global_step_2") == [
        {"step": 1, "a": 1.0},
        {"step": 2, "a": 2.0},
    ]
    append_metrics(tmp_path, 3, {"a": 30})
    add_traces(tmp_path, 3)
    assert [json.loads(line)["a"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        30,
    ]
    assert steps(tmp_path / "traces.jsonl") == [1] * 8 + [2] * 8 + [3] * 8


def test_a_step_killed_between_its_checkpoint_and_its_line_is_taken_from_the_checkpoint(
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "global_step_2"
    checkpoint.mkdir()
    append_metrics(tmp_path, 1, {"a": 1})
    save_with_checkpoint(checkpoint, 2, {"a": 2})
    rows = truncate_after(tmp_path, 2, checkpoint)
    assert rows[-1] == {"step": 2, "a": 2.0}
    assert steps(tmp_path / "metrics.jsonl") == [1, 2]
    assert truncate_after(tmp_path, 2, checkpoint) == rows  # once


def test_a_new_start_keeps_the_old_files_aside(tmp_path: Path) -> None:
    append_metrics(tmp_path, 1, {"a": 1})
    assert truncate_after(tmp_path, 0, tmp_path / "global_step_0") == []
    assert not (tmp_path / "metrics.jsonl").exists()
    assert steps(tmp_path / "metrics.jsonl.old") == [1]


def test_every_new_start_keeps_the_files_of_the_one_before(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        append_metrics(tmp_path, number, {"a": number})
        if number != 2:
            add_traces(tmp_path, number)
        truncate_after(tmp_path, 0, tmp_path / "global_step_0")
    assert [steps(tmp_path / f"metrics.jsonl.old{suffix}") for suffix in ("", "2", "3")] == [[1], [2], [3]]
    assert {path.name for path in tmp_path.glob("traces*")} == {"traces.jsonl.old", "traces.jsonl.old3"}


def test_a_validation_before_training_is_step_0(tmp_path: Path) -> None:
    add_to_last_step(tmp_path, 0, {"val-aux/nq/em/mean@1": 0.25, "text": "no scalar"})
    append_metrics(tmp_path, 1, {"a": 1})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 0, "val-aux/nq/em/mean@1": 0.25}, {"step": 1, "a": 1.0}]


def test_a_validation_before_a_resumed_step_joins_the_line_of_its_checkpoint(tmp_path: Path) -> None:
    """A run killed in its validation has the step's line without it; what was measured at first stays."""
    append_metrics(tmp_path, 1, {"a": 1})
    append_metrics(tmp_path, 2, {"a": 2, "val-aux/nq/em/mean@1": 0.5})
    add_to_last_step(tmp_path, 2, {"val-aux/nq/em/mean@1": 0.75, "val-aux/nq/f1/mean@1": 0.75})
    append_metrics(tmp_path, 3, {"a": 3})
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "a": 1.0},
        {"step": 2, "a": 2.0, "val-aux/nq/em/mean@1": 0.5, "val-aux/nq/f1/mean@1": 0.75},
        {"step": 3, "a": 3.0},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_disk_without_room_names_the_file(tmp_path: Path) -> None:
    with files_no_larger_than(100), pytest.raises(OSError, match="File too large") as caught:
        append_metrics(tmp_path, 1, {f"metric{number}": 0.5 for number in range(20)})
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")
    assert "the disk is full. Fix: " in (diagnose(f"Traceback\nOSError: {caught.value}\n") or "")
