"""Recorded trajectories become examples that hold what the agent loop would hold."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.data.wiki18_mini import PROTOCOL, QUESTIONS, TRAJECTORIES, DataError, read_lines
from benchmarks.real_model.demonstrations import MAX_TOKENS, read_examples
from benchmarks.real_model.sft_dataset import TokenDataset
from benchmarks.real_model.warmstart import main, write_examples
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.protocol.spans import query_spans

OBSERVATION_TOKENS = 192


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


def record(response: str, em: int = 1) -> dict[str, Any]:
    return {"question": "who is it", "response": response, "metric": {"em": em}}


def write(path: Path, *records: dict[str, Any]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(one) + "\n" for one in records)
    return path


def rollout(
    answer: str = "Bo", thought: str = "I need a name. I search.", passage: str = "Bo is here."
) -> str:
    seen = PROTOCOL.observation(PROTOCOL.documents(["Other\nNothing.", f"Name\n{passage}"]))
    return f"<think>{thought}</think>\n<search> its name </search>{seen}<answer> {answer} </answer>"


def test_an_example_is_what_the_agent_loop_would_hold(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / TRAJECTORIES, record(rollout()))
    (example,) = read_examples(path, ["who is it"], tokenizer, OBSERVATION_TOKENS)
    prompt = encode_messages(PROTOCOL.prompt("who is it"), tokenizer)
    assert example.input_ids[: len(prompt)] == prompt
    assert tokenizer.decode(example.input_ids[len(prompt) :]) == (
        "<think> I need a name. </think> <search> its name </search>"
        + PROTOCOL.observation(PROTOCOL.documents(["Name\nBo is here."]))
        + "<answer> Bo </answer><|im_end|>"
    )
    written = [i for i, own in zip(*example, strict=True) if own]
    assert tokenizer.decode(written) == (
        "<think> I need a name. </think> <search> its name </search><answer> Bo </answer><|im_end|>"
    )


@pytest.mark.parametrize(
    "unfit",
    [
        record(rollout(), em=0),
        record(rollout(passage="Nobody.")),  # the answer was not read
        record(rollout(thought="")),
        record(rollout(thought="word " * 100)),
        record("<answer> Bo </answer>"),
        {**record(rollout()), "question": "held out"},
    ],
)
def test_what_teaches_something_else_is_left_out(
    tmp_path: Path, tokenizer: Any, unfit: dict[str, Any]
) -> None:
    path = write(tmp_path / TRAJECTORIES, unfit)
    with pytest.raises(DataError, match="no successful trajectory"):
        read_examples(path, ["who is it"], tokenizer, OBSERVATION_TOKENS)


def test_examples_of_the_recorded_trajectories(real_data: Path, tokenizer: Any, tmp_path: Path) -> None:
    data = real_data / "wiki18-mini"
    questions = [line["question"] for line in read_lines(data / QUESTIONS, ["question"])]
    examples = read_examples(data / TRAJECTORIES, questions, tokenizer, OBSERVATION_TOKENS)
    assert len(examples) > 400
    for ids, mask in examples:
        assert len(ids) == len(mask) <= MAX_TOKENS
        assert 1 <= len(query_spans(ids, tokenizer, PROTOCOL, mask)) <= 2
        assert ids[-1] == tokenizer.eos_token_id
    write_examples(examples, tmp_path / "sft.parquet")
    rows = TokenDataset(str(tmp_path / "sft.parquet"))
    assert len(rows) == len(examples)
    assert rows[3]["input_ids"].tolist() == examples[3].input_ids
    assert rows[3]["loss_mask"].tolist() == examples[3].loss_mask
    assert rows[3]["position_ids"].tolist() == list(range(len(examples[3].input_ids)))


def test_a_folder_without_a_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "has no config.json; `sd-search model smollm2" in capsys.readouterr().err
