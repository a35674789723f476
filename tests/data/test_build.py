"""``sd-search data`` on local files in the public layout: what verl reads, resumed, verified, sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_search_verl.cli import main
from sd_search_verl.data.build import build_own
from sd_search_verl.data.flashrag import EVALUATION, TRAIN
from sd_search_verl.data.jsonl import MalformedRowsError
from sd_search_verl.data.questions import read_questions
from sd_search_verl.protocol import get

R1 = get("search_r1")


def row(name: str, i: int) -> dict[str, Any]:
    """A row as the public files have it; what stands in ``metadata`` differs from set to set."""
    golden = [f"answer {i}", ""] if i == 3 else [f"answer {i}"]
    return {
        "id": f"{name}_{i}",
        "question": f"What is {name} {i}?",
        "golden_answers": golden,
        "metadata": {name: {"context": [[i, "x"], []]}} if i % 2 else {},
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """All the sets with ten rows a split, Bamboogle with its 125."""
    folder = tmp_path / "FlashRAG_datasets"
    for sets in (TRAIN, EVALUATION):
        for name, split in sets.items():
            path = folder / name / f"{split.name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            count = 125 if name == "bamboogle" else 10
            path.write_text("".join(json.dumps(row(name, i)) + "\n" for i in range(count)))
    return folder


def data(source: Path, out: Path, *more: str) -> int:
    return main(["data", "build", "--source", str(source), "--out", str(out), "--any-rows", *more])


def test_all_sets_become_rows_that_verl_and_the_evaluation_read(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert data(source, out) == 0
    train = pq.read_table(out / "train.parquet").to_pylist()
    assert [r["data_source"] for r in train] == ["nq"] * 10 + ["hotpotqa"] * 10
    assert train[3] == {
        "data_source": "nq",
        "prompt": R1.prompt("What is nq 3?"),
        "ability": "search",
        "reward_model": {"style": "rule", "ground_truth": {"target": ["answer 3"]}},
        "extra_info": {"index": 3, "split": "train", "id": "nq_3", "question": "What is nq 3?"},
    }
    for name in EVALUATION:
        questions = read_questions(out / "eval" / f"{name}.parquet", None, R1)
        assert [q.id for q in questions] == [f"{name}_{i}" for i in range(125 if name == "bamboogle" else 10)]
        assert {q.set for q in questions} == {name}
    files = json.loads((out / "manifest.json").read_text())["files"]
    assert files["train.parquet"]["rows"] == 20
    (part,) = files["eval/musique.parquet"]["parts"]
    assert (part["source_rows"], part["published_rows"], part["split"]) == (10, 2417, "dev")
    assert part["empty_answers_dropped"] == 1


def test_files_that_are_not_the_published_ones_are_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    one = ["data", "build", "--source", str(source), "--out", str(out), "--train", "--evaluation"]
    assert main([*one, "bamboogle"]) == 0  # this one is as large as the published set
    assert main([*one, "nq"]) == 1
    assert "has 10 rows, the published nq test has 3610" in capsys.readouterr().err
    assert not (out / "eval" / "nq.parquet").exists()


def test_files_of_other_rows_than_the_source_has_now_are_built_again(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert data(source, out, "--evaluation", "nq") == 0
    path = source / "nq" / "test.jsonl"
    path.write_text(path.read_text().replace("What is nq 3?", "What was nq 3?"))
    capsys.readouterr()
    assert data(source, out, "--evaluation", "nq") == 0
    assert "eval/nq.parquet: 10 rows" in capsys.readouterr().err
    strict = ["data", "build", "--source", str(source), "--out", str(out), "--train", "--evaluation", "nq"]
    assert main(strict) == 1
    assert "has 10 rows, the published nq test has 3610" in capsys.readouterr().err


def test_a_second_start_builds_what_is_missing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (source / "popqa" / "test.jsonl").rename(source / "popqa" / "later")
    assert data(source, out) == 1
    assert "popqa/test.jsonl is missing" in capsys.readouterr().err
    built = {path.name: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert "train.parquet" in built
    assert "popqa.parquet" not in built
    (source / "popqa" / "later").rename(source / "popqa" / "test.jsonl")
    (out / "eval" / "nq.parquet").write_bytes(b"damaged")
    assert data(source, out) == 0
    shown = capsys.readouterr().err
    assert "train.parquet is there already: 20 rows" in shown
    assert "eval/nq.parquet: 10 rows" in shown
    assert "eval/popqa.parquet: 10 rows" in shown
    assert (out / "train.parquet").stat().st_mtime_ns == built["train.parquet"]
    # Another prompt is another file.
    assert data(source, out, "--protocol", "autorefine", "--train", "--evaluation", "nq") == 0
    prompts = {
        q.messages[0]["content"] for q in read_questions(out / "eval" / "nq.parquet", None, get("autorefine"))
    }
    assert all("<documents>" in prompt for prompt in prompts)


def test_verify_finds_every_damage(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert data(source, out) == 0
    assert main(["data", "verify", str(out)]) == 0
    (out / "eval" / "nq.parquet").unlink()
    whole = (out / "train.parquet").read_bytes()
    (out / "train.parquet").write_bytes(whole[:-1] + b"?")
    capsys.readouterr()
    assert main(["data", "verify", str(out)]) == 1
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "eval/nq.parquet is missing",
        "train.parquet is not what was written (sha256)",
    ]
    assert main(["data", "verify", str(tmp_path / "none")]) == 1


def ids(path: Path) -> list[str]:
    return [q.id for q in read_questions(path, None, R1)]


def test_samples_follow_the_seed(source: Path, tmp_path: Path) -> None:
    options = ["--train-sample", "4", "--sample", "40", "--seed"]
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert data(source, tmp_path / folder, *options, seed) == 0
    a, b, c = (ids(tmp_path / folder / "eval" / "bamboogle.parquet") for folder in "abc")
    assert a == b != c
    assert len(set(a)) == 40
    assert ids(tmp_path / "a" / "eval" / "nq.parquet") == [f"nq_{i}" for i in range(10)]
    assert pq.read_table(tmp_path / "a" / "train.parquet").num_rows == 8
    assert data(source, tmp_path / "all", "--train-sample", "null", "--sample", "null") == 0
    assert len(ids(tmp_path / "all" / "eval" / "bamboogle.parquet")) == 125


def test_parquet_of_a_mirror(source: Path, tmp_path: Path) -> None:
    jsonl = source / "nq" / "test.jsonl"
    rows = [json.loads(line) for line in jsonl.read_text().splitlines()]
    keys = ("id", "question", "golden_answers")
    pq.write_table(
        pa.Table.from_pylist([{k: r[k] for k in keys} for r in rows]), jsonl.with_suffix(".parquet")
    )
    assert data(source, tmp_path / "a", "--train", "--evaluation", "nq") == 0
    jsonl.unlink()
    assert data(source, tmp_path / "b", "--train", "--evaluation", "nq") == 0
    tables = [pq.read_table(tmp_path / folder / "eval" / "nq.parquet") for folder in "ab"]
    assert tables[0].equals(tables[1])


def test_rows_without_an_answer_are_left_out_and_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = source / "nq" / "test.jsonl"
    lines = path.read_text().splitlines()
    lines[4] = json.dumps({**row("nq", 4), "golden_answers": ["", " "]})
    lines[6] = json.dumps({**row("nq", 6), "question": None})
    path.write_text("\n".join(lines) + "\n")
    assert data(source, tmp_path / "out", "--train", "--evaluation", "nq") == 0
    shown = capsys.readouterr().err
    assert "line 5, field 'golden_answers': holds no answer" in shown
    assert "line 7, field 'question'" in shown
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (part,) = manifest["files"]["eval/nq.parquet"]["parts"]
    assert (part["rows"], part["source_rows"], len(part["left_out"])) == (8, 10, 2)


def test_a_broken_source_names_its_lines(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = source / "nq" / "test.jsonl"
    path.write_text(path.read_text() + '{"id": "cut", "question": "wh')
    assert data(source, tmp_path / "out", "--train", "--evaluation", "nq") == 1
    assert "line 11: not JSON" in capsys.readouterr().err
    assert not (tmp_path / "out" / "eval" / "nq.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluation", "squad"], "--evaluation[0]='squad' must be one of nq, triviaqa"),
        (
            ["--train-sample", "0"],
            "--train-sample=0 must be greater than or equal to 1, or null. Fix: set --train-sample",
        ),
        (["--protocol", "react"], "--protocol='react' must be 'search_r1', 'autorefine' or 'tool_call'"),
        (["--source", "/nowhere"], "neither a folder nor the name of a hub repository"),
        (["--source", "some/repository"], "set HF_ENDPOINT to a mirror, or give a copy"),
    ],
)
def test_wrong_arguments_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["data", "build", "--out", str(tmp_path), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_own_questions(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"question": "who?", "golden_answers": "Bo"}, {"question": "é", "golden_answers": ["x", "y"]}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(["data", "own", "mine", str(path), "--out", str(tmp_path / "out")]) == 0
    first, second = pq.read_table(tmp_path / "out" / "mine.parquet").to_pylist()
    assert first["reward_model"]["ground_truth"]["target"] == ["Bo"]
    assert second["prompt"] == R1.prompt("é")
    assert main(["data", "verify", str(tmp_path / "out")]) == 0
    path.write_text(json.dumps(rows[0]) + "\n{}\n")
    with pytest.raises(MalformedRowsError, match="1 malformed rows"):
        read_questions(path, None, R1)
    assert main(["data", "own", "mine", str(path), "--out", str(tmp_path / "bad")]) == 1
    assert not (tmp_path / "bad").exists()


def test_own_questions_in_verls_format_need_the_question_alone(tmp_path: Path) -> None:
    """Without it the whole prompt would be asked inside a second prompt."""
    row = {
        "data_source": "mine",
        "prompt": get("search_r1").prompt("who wrote Emma"),
        "reward_model": {"style": "rule", "ground_truth": {"target": ["Jane Austen"]}},
        "extra_info": {"index": 0},
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "whole.parquet")
    with pytest.raises(
        MalformedRowsError, match=r"(?s)whole\.parquet.*line 1, field 'extra_info.question': is missing"
    ) as caught:
        build_own(tmp_path / "whole.parquet", "mine", "search_r1", tmp_path / "out")
    assert "second prompt" in str(caught.value)
    row["extra_info"] = {"index": 0, "question": "who wrote Emma"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "alone.parquet")
    build_own(tmp_path / "alone.parquet", "mine", "autorefine", tmp_path / "out")
    (built,) = pq.read_table(tmp_path / "out" / "mine.parquet").to_pylist()
    assert built["prompt"] == get("autorefine").prompt("who wrote Emma")


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../x2", "a/b", "a\\b", "a\0b", "a\nb", "\udcff"])
def test_a_name_that_is_no_file_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"question": "who?", "golden_answers": "Bo"}))
    assert main(["data", "own", name, str(path), "--out", str(tmp_path / "out")]) == 1
    assert f"NAME {name!r} cannot be the name of a file. Fix: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
