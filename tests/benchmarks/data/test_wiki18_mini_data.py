"""The small real data set is rebuilt from its source: parsing on a made-up source, checksums on the real files."""

import gzip
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.data import wiki18_mini_data
from benchmarks.data.wiki18_mini_data import QUESTION_SETS, RECORDS, SHA256, SourceError, build, files, main

RESPONSE = (
    "<think> a </think> <search> who is Bo </search>\n\n"
    '<information>Doc 1(Title: "Bo") Bo is a dog.\nDoc 2(Title: Cat (animal)) A cat\nis no dog. </information>\n\n'
    "<search>who is Bo</search><search> </search> <answer> a dog </answer>"
)


def record(number: int) -> dict[str, Any]:
    output = {"query": "Q", "final_response": RESPONSE, "stop_matched_text": "</answer>", "pred": "a dog"}
    question = {"id": f"test_{number}", "question": "who is Bo", "golden_answers": ["dög"]}
    return question | {"output": output | {"metric_score": {"em": 0.0}}}


SOURCE = {f"{folder}/intermediate_data.json": json.dumps([record(0)]) for folder in RECORDS.values()} | {
    f"data_subsample/{name}/test.jsonl": json.dumps(record(1) | {"metadata": {}}) + "\n"
    for name in QUESTION_SETS
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    for name, text in SOURCE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    git = ("git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "source")):
        subprocess.run([*git, *command], check=True)
    return folder


def test_questions_queries_trajectories_and_passages_are_taken_out() -> None:
    found = dict(files(SOURCE.__getitem__))
    assert found.keys() == SHA256.keys()
    assert json.loads(found["questions_nq.jsonl"]) == {
        "id": "test_1", "question": "who is Bo", "golden_answers": ["dög"]
    }  # fmt: skip
    assert found["queries.txt"] == "who is Bo\nwho is Bo\n"  # one of NQ, one of PopQA
    passages = [json.loads(line) for line in found["corpus.jsonl"].splitlines()]
    # A title ends at the first ") ", as in the recorded figures.
    assert [passage["contents"] for passage in passages] == [
        '"Bo"\nBo is a dog.',
        "Cat (animal)\nA cat\nis no dog.",
    ]
    trajectories = [json.loads(line) for line in found["trajectories_nq.jsonl"].splitlines()]
    assert [t["run"] for t in trajectories] == ["v0-base", "v1-base"]
    assert trajectories[0]["response"] == RESPONSE


def test_a_clone_by_path_is_read_at_one_commit(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = subprocess.run(
        ["git", "-C", str(clone), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    monkeypatch.setattr(wiki18_mini_data, "COMMIT", head)
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files(SOURCE.__getitem__)}
    monkeypatch.setattr(wiki18_mini_data, "SHA256", sums)
    paths = build(clone, tmp_path / "out")
    assert sorted(path.name for path in paths) == sorted(
        [*(set(SHA256) - {"trajectories_nq.jsonl"}), "trajectories_nq.jsonl.gz"]
    )
    (trajectories,) = (path for path in paths if path.suffix == ".gz")
    assert (
        gzip.decompress(trajectories.read_bytes()).decode()
        == dict(files(SOURCE.__getitem__))["trajectories_nq.jsonl"]
    )


def test_another_content_than_the_checksum_is_refused(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiki18_mini_data, "COMMIT", "HEAD")
    with pytest.raises(SourceError, match=r"questions_nq\.jsonl has SHA-256"):
        build(clone, tmp_path / "out")


def test_a_folder_that_is_no_such_clone_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "out"), "--clone", str(tmp_path)]) == 1
    assert "Fix: git clone https://" in capsys.readouterr().err


def test_the_files_at_hand_are_those_that_would_be_rebuilt(real_data: Path) -> None:
    for name, expected in SHA256.items():
        compressed = real_data / "wiki18-mini" / f"{name}.gz"
        text = (
            gzip.decompress(compressed.read_bytes())
            if compressed.exists()
            else (real_data / "wiki18-mini" / name).read_bytes()
        )
        assert hashlib.sha256(text).hexdigest() == expected, name
