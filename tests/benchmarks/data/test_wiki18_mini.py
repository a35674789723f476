"""From real data to what verl trains on. Skipped where the data is not at hand."""

import gzip
import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.data.wiki18_mini import (
    PROTOCOL,
    QUESTIONS,
    TRAJECTORIES,
    DataError,
    Trajectory,
    build,
    encode,
    main,
    query_rate,
    read_lines,
    read_trajectories,
    warm_start,
    write_questions,
)
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.world.config import FitConfig


@pytest.fixture(scope="module")
def wiki(real_data: Path) -> Path:
    return real_data / "wiki18-mini"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder of the same form, made up: one question more than validation takes, and one trajectory each."""
    lines = [{"question": f"who is number {i}", "golden_answers": [str(i)]} for i in range(101)]
    (tmp_path / QUESTIONS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with gzip.open(tmp_path / TRAJECTORIES, "wt") as file:
        for line in lines:
            response = (
                f"<search> {line['question']} </search>"
                + PROTOCOL.observation(PROTOCOL.documents(["Numbers\nA number is a count.", "B\nb"]))
                + "<answer> 7 </answer>"
            )
            file.write(json.dumps({"question": line["question"], "response": response}) + "\n")
    return tmp_path


def test_questions_become_rows_that_verl_reads(wiki: Path, tmp_path: Path) -> None:
    train, val = write_questions(wiki, tmp_path)
    assert (len(train), len(val)) == (900, 100)
    assert not set(train) & set(val)
    for split, questions in (("train", train), ("val", val)):
        for index, row in enumerate(pq.read_table(tmp_path / f"{split}.parquet").to_pylist()):
            assert row["prompt"] == PROTOCOL.prompt(questions[index])
            assert row["data_source"] == "nq"
            assert row["reward_model"]["style"] == "rule"
            assert row["reward_model"]["ground_truth"]["target"]
            place = {"question": questions[index], "index": index, "split": split}
            assert place.items() <= row["extra_info"].items()


def test_real_trajectories_are_read_with_their_documents(wiki: Path, tmp_path: Path) -> None:
    train, val = write_questions(wiki, tmp_path)
    found = read_trajectories(wiki / TRAJECTORIES, train)
    assert len(found) > 1500
    assert not {trajectory.question for trajectory in found} & set(val)
    assert all(len(t.documents) == len(t.queries) and t.answer for t in found)
    assert sum(len(documents) == 3 for t in found for documents in t.documents) > 1500
    assert all("\n" in passage for t in found for documents in t.documents for passage in documents)


@pytest.mark.parametrize("short", [False, True])
def test_only_the_policys_tokens_carry_loss(qwen_tokenizer: Any, short: bool) -> None:
    trajectory = Trajectory("who is it", ["who it is"], [["T\nIt is Bo and more", "U\nu"]], "Bo")
    ids, weights = encode(trajectory, qwen_tokenizer, Random(0), short)
    assert len(ids) == len(weights)
    policy = qwen_tokenizer.decode([i for i, weight in zip(ids, weights, strict=True) if weight])
    assert policy == "<search> who it is </search><answer> Bo </answer>" + qwen_tokenizer.eos_token
    assert ("Answer the given question." in qwen_tokenizer.decode(ids)) != short
    ((start, end),) = query_spans(ids, qwen_tokenizer, PROTOCOL, [int(weight > 0) for weight in weights])
    assert qwen_tokenizer.decode(ids[start:end]) == " who it is"


def test_the_whole_prompt_is_the_one_that_rollouts_start_from(qwen_tokenizer: Any) -> None:
    trajectory = Trajectory("who is it", ["it"], [["T\nt"]], "Bo")
    ids, _ = encode(trajectory, qwen_tokenizer, Random(0), short=False)
    prompt = qwen_tokenizer.apply_chat_template(
        PROTOCOL.prompt("who is it"), add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert ids[: len(prompt)] == prompt


def test_the_folder_made_is_a_model_with_the_whole_vocabulary(
    small: Path, qwen_tokenizer: Any, real_data: Path
) -> None:
    out = small / "out"
    config = FitConfig(steps=2, batch=1, micro_batches=1)
    assert "first turns" in build(small, real_data / "qwen2.5-tokenizer", out, config)
    model = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert model.config.vocab_size == len(tokenizer) == len(qwen_tokenizer)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.encode("Ünïcode <search> x </search>") == qwen_tokenizer.encode(
        "Ünïcode <search> x </search>"
    )


@pytest.mark.slow
def test_a_short_warm_start_learns_the_form(qwen_tokenizer: Any) -> None:
    trajectories = [
        Trajectory(f"who is number {i}", [f"number {i}"], [["T\nA number is a count."]], "Bo")
        for i in range(20)
    ]
    config = FitConfig(steps=80, batch=8, micro_batches=1, learning_rate=8e-3, warmup_steps=10)
    model = warm_start(trajectories, [t.question for t in trajectories], qwen_tokenizer, config)
    assert query_rate(model, qwen_tokenizer, ["who is number 3", "who is number 5"] * 4) >= 0.5


@pytest.mark.parametrize(
    ("line", "message"),
    [("{broken", "not JSON"), ("[1]", "is a list"), ('{"golden_answers": ["a"]}', "no 'question'")],
)
def test_a_malformed_line_is_named(small: Path, line: str, message: str) -> None:
    with (small / QUESTIONS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=rf"{QUESTIONS}:102: {message}"):
        write_questions(small, small)


def test_missing_and_broken_files_are_named(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(small / "none"), str(small), "--out", str(small / "out")]) == 1
    assert "tokenizer.json is missing" in capsys.readouterr().err
    whole = (small / TRAJECTORIES).read_bytes()
    (small / TRAJECTORIES).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="copy it again"):
        list(read_lines(small / TRAJECTORIES, ("question",)))
    with pytest.raises(DataError, match="is missing"):
        write_questions(small / "none", small)


def test_too_little_data_is_an_error(small: Path) -> None:
    few = (small / QUESTIONS).read_text().splitlines()[:100]
    (small / QUESTIONS).write_text("\n".join(few))
    with pytest.raises(DataError, match="more than 100"):
        write_questions(small, small)
    with pytest.raises(DataError, match="no well-formed trajectory"):
        read_trajectories(small / TRAJECTORIES, ["another question"])
