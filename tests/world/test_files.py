"""The files of ``build``: what the retriever and verl read."""

import json
from pathlib import Path

import bm25s
import pyarrow.parquet as pq
import pytest

from sd_search_verl.cli import main
from sd_search_verl.scoring import compute_score
from sd_search_verl.world import World, WorldConfig
from sd_search_verl.world.config import CHECKPOINT

OPTIONS = "--relations 4 --names 16 --held-out-names 5 --train-questions 40 --val-questions 20 --seed 7"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world") / "new" / "folder"
    assert main(["world", "build", "--out", str(directory), *OPTIONS.split()]) == 0
    return directory


def test_the_corpus_has_a_passage_for_every_name_and_phrasing(built: Path) -> None:
    lines = [json.loads(line) for line in (built / "corpus.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [str(i) for i in range(16 * 4 * 8)]
    title, body = lines[0]["contents"].split("\n")
    assert body.startswith(f"{title} ")
    assert len({line["contents"].rsplit(" is ", 1)[0] for line in lines}) == len(lines)


def test_bm25_finds_what_the_world_says_it_finds(built: Path) -> None:
    contents = [json.loads(line)["contents"] for line in (built / "corpus.jsonl").read_text().splitlines()]
    index = bm25s.BM25(k1=1.2, b=0.75)
    index.index(bm25s.tokenize(contents, stopwords=None, show_progress=False), show_progress=False)
    world = World(WorldConfig(seed=7, relations=4, names=16, held_out_names=5))
    for name in world.names:
        for phrasing in (world.phrasings("mentor")[0], world.right_phrasing("friend")):
            query = bm25s.tokenize([f"{phrasing} {name}"], stopwords=None, show_progress=False)
            found, scores = index.retrieve(query, corpus=contents, k=2, show_progress=False)
            assert [found[0, 0]] == world.retrieve(f"{phrasing} {name}")
            assert scores[0, 1] < scores[0, 0]


@pytest.mark.parametrize(("split", "size"), [("train", 40), ("val", 20)])
def test_questions_have_the_columns_that_verl_reads(built: Path, split: str, size: int) -> None:
    rows = pq.read_table(built / f"{split}.parquet").to_pylist()
    assert len(rows) == size
    for index, row in enumerate(rows):
        assert set(row) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
        info = row["extra_info"]
        assert row["prompt"] == [{"role": "user", "content": f"Question: {info['question']}\n"}]
        assert (info["index"], info["split"], row["data_source"]) == (index, split, "world")
        assert row["reward_model"]["style"] == "rule"
        assert info["hops"] == len(info["right_queries"]) == info["question"].count(" of ")


def test_the_scorer_accepts_the_true_answer_only(built: Path) -> None:
    row = pq.read_table(built / "val.parquet").to_pylist()[0]
    truth = row["reward_model"]["ground_truth"]
    (answer,) = truth["target"]
    assert compute_score("world", f"<answer> {answer} </answer>", truth)["score"] == 1.0
    assert compute_score("world", "<answer> Nobody </answer>", truth)["score"] == 0.0


def test_the_oracle_file_names_the_right_phrasings(built: Path) -> None:
    oracle = json.loads((built / "oracle.json").read_text())
    assert oracle["config"]["seed"] == 7
    assert len(oracle["relations"]) == 4
    assert all(entry["right"] in entry["phrasings"] for entry in oracle["relations"].values())


def test_the_model_is_the_shipped_one(built: Path) -> None:
    for file in CHECKPOINT.iterdir():
        assert (built / "model" / file.name).read_bytes() == file.read_bytes()


def test_a_folder_of_something_else_is_left_as_it_is(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus.jsonl").write_text("mine")
    for command in ("build", "warmstart", "tool-call"):
        assert main(["world", command, "--out", str(tmp_path)]) == 1
        assert f"{tmp_path} holds files, which would be overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]
    assert (tmp_path / "corpus.jsonl").read_text() == "mine"
    (tmp_path / "corpus.jsonl").rename(tmp_path / "oracle.json")  # as a build that was killed leaves it
    assert main(["world", "build", "--out", str(tmp_path), *OPTIONS.split()]) == 0
    assert (tmp_path / "corpus.jsonl").read_bytes() == (built / "corpus.jsonl").read_bytes()


def test_errors_are_one_line_and_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "build", "--out", str(tmp_path / "a"), "--names", "3"]) == 1
    assert "--names=3" in capsys.readouterr().err
    assert main(["world", "build", "--out", str(tmp_path / "b"), "--model", str(tmp_path / "none")]) == 1
    assert "warmstart --out NEW_FOLDER" in capsys.readouterr().err
