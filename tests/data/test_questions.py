"""Question files: two formats, one kind of question, and no row lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_search_verl.data.jsonl import MalformedRowsError
from sd_search_verl.data.questions import read_questions
from sd_search_verl.errors import UserError
from sd_search_verl.protocol import get

R1 = get("search_r1")


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_own_questions(tmp_path: Path) -> None:
    rows = [
        {"question": "who is it", "golden_answers": "Bo"},
        {"id": 7, "question": "é?", "golden_answers": ["a", "b"]},
    ]
    first, second = read_questions(write(tmp_path / "mine.jsonl", rows), None, R1)
    assert (first.set, first.id, first.golden_answers) == ("mine", "0", ["Bo"])
    assert (second.id, second.golden_answers) == ("7", ["a", "b"])
    assert first.messages == R1.prompt("who is it")
    assert first.messages[0]["content"].endswith("Question: who is it?\n")
    assert read_questions(tmp_path / "mine.jsonl", "nq", R1)[0].set == "nq"


def test_a_column_named_prompt_does_not_make_verls_format(tmp_path: Path) -> None:
    row = {"question": "who?", "golden_answers": ["Bo"], "reward_model": None}
    rows = [{**row, "prompt": prompt} for prompt in ("hi", None, {"system": "hi"})]
    found = read_questions(write(tmp_path / "mine.jsonl", rows), None, R1)
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "mine.parquet")
    found += read_questions(tmp_path / "mine.parquet", None, R1)
    assert {(q.question, *q.golden_answers) for q in found} == {("who?", "Bo")}
    assert [q.messages for q in found] == [R1.prompt("who?")] * 5


def test_the_parquet_of_the_training_keeps_its_prompts(tmp_path: Path) -> None:
    rows = [
        {
            "data_source": name,
            "prompt": [{"role": "user", "content": f"my own prompt {i}"}],
            "reward_model": {"style": "rule", "ground_truth": {"target": ["x", "y"]}},
            "extra_info": {"index": i, "question": f"q {i}"},
        }
        for i, name in enumerate(["nq", "hotpotqa"])
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    first, second = read_questions(tmp_path / "test.parquet", None, R1)
    assert (first.set, second.set) == ("nq", "hotpotqa")
    assert first.messages == rows[0]["prompt"]
    assert (second.question, second.golden_answers, second.id) == ("q 1", ["x", "y"], "1")


def test_a_sample_is_always_the_same_and_per_set(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "golden_answers": ["x"]} for i in range(50)]
    path = write(tmp_path / "mine.jsonl", rows)
    sample = read_questions(path, None, R1, 10)
    assert sample == read_questions(path, None, R1, 10)
    assert [int(q.id) for q in sample] == sorted({int(q.id) for q in sample})
    assert len(sample) == 10 != len(read_questions(path, None, R1, 100))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"golden_answers": ["x"]}, "line 2, field 'question': is missing"),
        ({"question": "q", "golden_answers": ["x", None]}, r"field 'golden_answers\[1\]': is missing"),
        ({"question": "q", "golden_answers": ["x"], "id": "0"}, "field 'id': '0' stands in line 1"),
        ({"reward_model": {}, "prompt": "p"}, "field 'reward_model.ground_truth': is missing"),
        ({"prompt": [{"role": "user", "content": "p"}]}, "field 'reward_model.ground_truth': is missing"),
        ({"prompt": "p"}, "field 'question': is missing.*; the fields there are prompt"),
        (
            {"reward_model": {"ground_truth": "x"}, "prompt": "p"},
            "field 'prompt': is a text; a list of messages is needed",
        ),
        (
            {"reward_model": {"ground_truth": {"target": ["x"]}}, "prompt": [{"role": "user"}]},
            r"field 'prompt\[0\].content': is missing",
        ),
    ],
)
def test_rows_that_cannot_be_asked(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    good = {"question": "q", "golden_answers": ["x"]}
    with pytest.raises(MalformedRowsError, match=message):
        read_questions(write(tmp_path / "mine.jsonl", [good, row]), None, R1)


ROW = {
    "data_source": "nq",
    "prompt": [{"role": "user", "content": "who?"}],
    "reward_model": {"ground_truth": {"target": ["a"]}},
    "extra_info": {"index": 0},
}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"extra_info": "none"}, "extra_info"),
        ({"extra_info": {"id": [1]}}, "extra_info.id"),
        ({"data_source": 3}, "data_source"),
        ({"prompt": [*ROW["prompt"], {"role": "assistant", "content": "It"}]}, "prompt[1].role"),
        ({"prompt": [{"role": "user", "content": [{"type": "image", "text": ""}]}]}, "prompt[0].content"),
        ({"reward_model": {"ground_truth": {"target": "['a', 'b']"}}}, "reward_model.ground_truth.target"),
    ],
    ids=str,
)
def test_rows_that_training_refuses_are_refused(change: dict[str, Any], field: str, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{**ROW, **change}]), tmp_path / "q.parquet")
    with pytest.raises(MalformedRowsError) as error:
        read_questions(tmp_path / "q.parquet", None, R1)
    assert [problem.field for problem in error.value.problems] == [field]


def test_prompts_of_another_protocol_are_refused_with_its_name(tmp_path: Path) -> None:
    row = {**ROW, "prompt": get("autorefine").prompt("who"), "extra_info": {"index": 1}}
    pq.write_table(pa.Table.from_pylist([ROW, row]), tmp_path / "q.parquet")
    with pytest.raises(
        MalformedRowsError, match=r"line 2.*autorefine, not of search_r1.*set search.protocol=autorefine"
    ):
        read_questions(tmp_path / "q.parquet", None, R1)


def test_parts_of_text_are_joined_as_in_training(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "who "}, {"type": "text", "text": "is it?"}]
    row = {**ROW, "prompt": [{"role": "user", "content": parts}]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
    (question,) = read_questions(tmp_path / "q.parquet", None, R1)
    assert question.messages == [{"role": "user", "content": "who is it?"}]


def test_what_is_no_regular_file_is_told_apart(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path, says in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe.jsonl", "is no regular file"),
        (tmp_path / "no", "is missing"),
    ):
        with pytest.raises(UserError, match=says):
            read_questions(path, None, R1)
