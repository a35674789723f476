"""Every row of the data files is checked: file, row, field and fix are named."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig
from support.good_run import change
from support.tiny import byte_tokenizer

from sd_search_verl import protocol as protocols
from sd_search_verl.finding import Finding
from sd_search_verl.verl_adapter import preflight
from sd_search_verl.verl_adapter.preflight import rows as row_checks


def plain_row(**changes: Any) -> dict[str, Any]:
    row = {
        "data_source": "nq",
        "prompt": [{"role": "user", "content": "who wrote Emma"}],
        "reward_model": {"style": "rule", "ground_truth": {"target": ["Jane Austen"]}},
        "extra_info": {"index": 0, "question": "who wrote Emma"},
    }
    return {**row, **changes}


def truth(value: Any) -> dict[str, Any]:
    return plain_row(reward_model={"style": "rule", "ground_truth": value})


def failed(config: DictConfig, path: Path, **values: Any) -> list[Finding]:
    changed = change(config, data__train_files=str(path), **{"data__train_batch_size": 1, **values})
    return [finding for finding in preflight.check_data(changed) if not finding.ok]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def others(path: Path) -> str:
    """Return a file of other questions of the same length."""
    rows = json.loads(json.dumps(pq.read_table(path).to_pylist()).replace("Emma", "Ivan"))
    return str(write(path.with_stem("validation"), rows))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "prompt is a text": (plain_row(prompt="who"), "row 1, prompt is a text; a list of messages is needed"),
    "prompt is empty": (plain_row(prompt=[]), "row 1, prompt is empty or no list"),
    "prompt is null": (plain_row(prompt=None), "row 1, prompt is empty or no list"),
    "prompt of strings": (plain_row(prompt=["who"]), "row 1, prompt[0] is no message with role and content"),
    "no role": (plain_row(prompt=[{"content": "who"}]), "row 1, prompt[0].role is missing or null"),
    "no content": (
        plain_row(prompt=[{"role": "user", "content": None}]),
        "prompt[0].content is missing or null",
    ),
    "a picture": (
        plain_row(prompt=[{"role": "user", "content": [{"type": "image", "text": None}]}]),
        "row 1, prompt[0].content has a part that is no text",
    ),
    "no user": (
        plain_row(prompt=[{"role": "assistant", "content": "x"}]),
        "prompt[0].role is 'assistant', not 'user'",
    ),
    "answer is a number": (truth(1990), "row 1, reward_model.ground_truth is a number"),
    "answer is null": (truth(None), "row 1, reward_model.ground_truth is missing or null"),
    "target is null": (truth({"target": None}), "row 1, reward_model.ground_truth.target is missing or null"),
    "target is misspelt": (truth({"targets": ["a"]}), "ground_truth has no 'target'; its keys are targets"),
    "target is empty": (truth({"target": []}), "ground_truth.target is an empty list"),
    "target holds an empty text": (truth({"target": ["a", " "]}), "ground_truth.target[1] is empty"),
    "target holds numbers": (truth({"target": [1990]}), "ground_truth.target[0] is a number"),
    "target is a JSON list": (truth({"target": '["a", "b"]'}), "ground_truth.target is the text of a list"),
    "target is a Python list": (truth("['a', 'b']"), "ground_truth is the text of a list"),
    "target holds a JSON list": (truth({"target": ['["a"]']}), "ground_truth.target is the text of a list"),
    "dates": (truth({"target": [datetime.datetime(1990, 5, 1)]}), "ground_truth.target[0] is a datetime"),
    "no ground truth": (plain_row(reward_model={"style": "rule"}), "reward_model.ground_truth is missing"),
    "reward model is a text": (
        plain_row(reward_model="a"),
        "row 1, reward_model is no object with ground_truth",
    ),
    "data source is null": (plain_row(data_source=None), "row 1, data_source is missing or null"),
    "extra info is a text": (plain_row(extra_info="a"), "row 1, extra_info is no object"),
    "another loop": (plain_row(agent_name="tool_agent"), "row 1, agent_name is 'tool_agent'"),
    "another group size": (plain_row(__rollout_n__=3), "row 1, __rollout_n__ is 3, not 5"),
    "images": (plain_row(images=["a.png"]), "row 1, images is not empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named(good: DictConfig, tmp_path: Path, name: str) -> None:
    row, says = BAD[name]
    path = write(tmp_path / "bad.parquet", [row])
    (finding,) = failed(good, path)
    assert finding.fatal
    assert f"{path}: 1 of 1 rows" in finding.found
    assert says in finding.found
    assert finding.fix


@pytest.mark.parametrize("column", ["responses", "num_turns", "rm_scores", "session_id", "__do_sample__"])
def test_a_column_in_place_of_a_rollouts_own_value_is_refused(
    good: DictConfig, tmp_path: Path, column: str
) -> None:
    (finding,) = failed(good, write(tmp_path / "dump.parquet", [plain_row(**{column: 1})]))
    assert finding.fatal
    assert f"dump.parquet has the column {column}, " in finding.found
    assert failed(good, write(tmp_path / "own.parquet", [plain_row(my_note="x", uid="a")])) == []


def test_the_question_set_is_read_by_its_one_name(good: DictConfig, tmp_path: Path) -> None:
    """verl's reward manager and validation read data_source, whatever data.reward_fn_key says."""
    row = plain_row(source="nq")
    assert failed(good, write(tmp_path / "both.parquet", [row]), data__reward_fn_key="source") == []
    del row["data_source"]
    (finding,) = failed(good, write(tmp_path / "other.parquet", [row]), data__reward_fn_key="source")
    assert finding.fatal
    assert "has no column data_source" in finding.found


def test_the_row_is_found_wherever_it_stands(good: DictConfig, tmp_path: Path) -> None:
    rows = [truth({"target": ["a"]}) for _ in range(9000)]
    for number in (4097, 8001, 8002, 9000):
        rows[number - 1] = truth({"target": []})
    (finding,) = failed(good, write(tmp_path / "long.parquet", rows))
    assert "4 of 9000 rows" in finding.found
    assert "row 4097, " in finding.found
    assert "row 8002, " in finding.found
    assert "and 1 more" in finding.found


def test_of_a_large_file_rows_are_drawn_and_it_is_said(
    good: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_checks, "MOST_ROWS", 100)
    path = write(tmp_path / "large.parquet", [plain_row() for _ in range(5000)])
    changed = change(good, data__train_files=str(path))
    found = [finding.found for finding in preflight.check_data(changed)]
    assert f"{path}: 5000 rows, 100 of them drawn and checked" in found
    write(path, [truth({"target": []}) for _ in range(5000)])
    (finding,) = failed(good, path)
    assert "100 of 100 drawn rows" in finding.found


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_is_read_as_verl_reads_it(good: DictConfig, tmp_path: Path, suffix: str) -> None:
    assert failed(good, write(tmp_path / f"good{suffix}", [plain_row()] * 3)) == []
    (finding,) = failed(good, write(tmp_path / f"bad{suffix}", [plain_row(), truth({"target": []})]))
    assert "1 of 2 rows" in finding.found
    assert "row 2, reward_model.ground_truth.target is an empty list" in finding.found
    # The reader takes such texts for dates, and verl would score against '1990-05-01 00:00:00'.
    (finding,) = failed(good, write(tmp_path / f"dates{suffix}", [truth({"target": ["1990-05-01"]})]))
    assert "ground_truth.target[0] is a datetime" in finding.found
    (tmp_path / f"text{suffix}").write_text("<html>\n")
    (finding,) = failed(good, tmp_path / f"text{suffix}")
    assert f"text{suffix} is not {suffix[1:]} that can be read" in finding.found


def test_other_formats_and_empty_files_are_refused(good: DictConfig, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n")
    (finding,) = failed(good, tmp_path / "rows.csv")
    assert "rows.csv is neither .parquet nor .json nor .jsonl" in finding.found
    pq.write_table(pa.Table.from_pylist([plain_row()]).slice(0, 0), tmp_path / "none.parquet")
    (finding,) = failed(good, tmp_path / "none.parquet")
    assert "none.parquet has no row" in finding.found


def test_content_of_text_parts_is_accepted(good: DictConfig, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "who wrote "}, {"type": "text", "text": "Emma"}]
    assert (
        failed(
            good, write(tmp_path / "parts.parquet", [plain_row(prompt=[{"role": "user", "content": parts}])])
        )
        == []
    )


def test_answers_that_only_begin_like_a_list_are_accepted(good: DictConfig, tmp_path: Path) -> None:
    rows = [truth({"target": ["[REC]", "{x}", "[1, 2]"]}), truth({"target": "Jane"}), truth(["Jane"])]
    for number, row in enumerate(rows):
        assert failed(good, write(tmp_path / f"{number}.parquet", [row])) == []


def test_one_row_of_another_protocol_is_found(good: DictConfig, tmp_path: Path) -> None:
    other = plain_row(prompt=[{"role": "user", "content": "use <documents> here"}])
    (finding,) = failed(good, write(tmp_path / "mixed.parquet", [plain_row(), plain_row(), other]))
    assert "speak autorefine, but search.protocol=search_r1: row 3, " in finding.found


LONG: list[tuple[dict[str, Any], str | None, bool]] = [
    ({"truncation": "error"}, "data.truncation=error is not what would happen", True),
    ({"truncation": "right"}, "data.truncation=right is not what would happen", True),
    ({"truncation": "left"}, "the longest prompt has 14 tokens: of prompts longer", False),
    ({"truncation": "error", "filter_overlong_prompts": True}, None, False),
    ({"truncation": "error", "max_prompt_length": 14}, None, False),
]


@pytest.mark.parametrize(("values", "says", "fatal"), LONG)
def test_prompts_that_are_too_long(
    good: DictConfig, tmp_path: Path, values: dict[str, Any], says: str | None, fatal: bool
) -> None:
    path = write(tmp_path / "long.parquet", [plain_row()])
    data = {f"data__{name}": value for name, value in {"max_prompt_length": 8, **values}.items()}
    found = failed(good, path, data__val_files=others(path), **data)
    assert [finding.fatal for finding in found] == ([fatal] if says else [])
    assert all(says in finding.found for finding in found if says)


@pytest.mark.parametrize(
    ("context", "says", "fatal"),
    [
        (14, "max_model_len=14 leaves no token to answer a prompt of 14", True),
        (10, "max_model_len=10 leaves no token to answer a prompt of 14", True),
        (100, "max_model_len=100 ends responses to a prompt of 14 tokens after 86", False),
        (206, None, False),
        (None, None, False),
    ],
)
def test_a_context_below_the_prompts(
    good: DictConfig, tmp_path: Path, context: int | None, says: str | None, fatal: bool
) -> None:
    path = write(tmp_path / "short.parquet", [plain_row()])
    values = {"data__val_files": others(path), "actor_rollout_ref__rollout__max_model_len": context}
    found = failed(good, path, **values)
    assert [finding.fatal for finding in found] == ([fatal] if says else [])
    assert all(says in finding.found for finding in found if says)


@pytest.mark.parametrize("name", ["prompt_length", "response_length"])
def test_a_length_of_the_engine_that_is_not_the_datas_is_refused(
    good: DictConfig, tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / "short.parquet", [plain_row()])
    values = {"data__val_files": others(path), f"actor_rollout_ref__rollout__{name}": 100}
    (finding,) = failed(good, path, **values)
    assert finding.fatal
    assert f"actor_rollout_ref.rollout.{name}=100 is not data.max_{name}=" in finding.found


@pytest.mark.parametrize("name", ["search_r1", "autorefine", "tool_call"])
def test_prompts_of_every_protocol_tell_the_policy_of_it(good: DictConfig, tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "rows.parquet", [plain_row(prompt=protocols.get(name).prompt("who wrote Emma"))])
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    long: dict[str, Any] = {
        "data__max_prompt_length": 2048,
        "actor_rollout_ref__rollout__max_model_len": None,
    }
    long["actor_rollout_ref__model__tokenizer_path"] = str(tmp_path / "tokenizer")
    assert failed(good, path, search__protocol=name, **long, data__val_files=others(path)) == []


BARE = [{"role": "user", "content": "who wrote Emma"}]
TOLD = [{"role": "system", "content": "Search by <search>..</search>, answer by <answer>..</answer>."}, *BARE]


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ({"protocol": "search_r1"}, "2 of 3 rows do not tell the policy of search.protocol=search_r1"),
        ({"protocol": "autorefine"}, "row 1, prompt does not name <search> or <answer>; row 2,"),
        ({"protocol": "tool_call"}, "row 1, prompt does not name <answer>; row 2,"),
        ({"protocol": "tool_call", "tool_call": {"answer": "last_message"}}, None),
    ],
)
def test_bare_questions_are_warned_about_and_a_users_own_prompt_is_not(
    good: DictConfig, tmp_path: Path, search: dict[str, Any], says: str | None
) -> None:
    path = write(tmp_path / "rows.parquet", [plain_row(prompt=prompt) for prompt in (BARE, BARE, TOLD)])
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    values = {f"search__{name}": value for name, value in search.items()}
    values["actor_rollout_ref__model__tokenizer_path"] = str(tmp_path / "tokenizer")
    findings = [one for one in failed(good, path, **values) if str(path) in one.found]
    assert [one.warning for one in findings] == ([True] if says else [])
    for finding in findings:
        assert str(says) in finding.found
        assert f"--protocol {search['protocol']}" in finding.fix


def test_a_policy_whose_tokens_the_tags_are_needs_no_explanation(good: DictConfig, tmp_path: Path) -> None:
    assert failed(good, write(tmp_path / "rows.parquet", [plain_row(prompt=BARE)])) == []
