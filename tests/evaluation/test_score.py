"""``sd-search score``: recorded scores of real agents, and the traps of re-scoring other people's files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sd_search_verl.cli import main
from sd_search_verl.evaluation.config import ScoreFields
from sd_search_verl.evaluation.score import response_of, score_file
from sd_search_verl.protocol import get

R1 = get("search_r1")


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ems(path: Path, fields: ScoreFields | None = None, protocol: str | None = None) -> list[float]:
    return score_file(path, fields or ScoreFields(), protocol).sets[path.name]["EM"]


def test_every_recorded_trajectory(real_data: Path) -> None:
    path = real_data / "wiki18-mini" / "trajectories_nq.jsonl.gz"
    with gzip.open(path, "rt") as file:
        recorded = [json.loads(line)["metric"] for line in file]
    scored = score_file(path, ScoreFields())
    values = scored.sets[path.name]
    assert (scored.rows, scored.problems) == (2000, [])
    assert values["EM"] == [metric["em"] for metric in recorded]
    assert values["F1"] == pytest.approx([metric["f1"] for metric in recorded], abs=1e-6)
    assert all(cover >= em for cover, em in zip(values["cover-EM"], values["EM"], strict=True))
    # The same from the recorded predictions.
    assert score_file(path, ScoreFields(answer="pred")).sets[path.name]["EM"] == values["EM"]


def test_a_prompt_in_the_text_gives_no_answer(tmp_path: Path) -> None:
    """The prompt's example would be right for every question whose answer is Beijing."""
    prompt = R1.prompt("capital of China")[0]["content"]
    assert "<answer> Beijing </answer>" in prompt
    rows = [
        {"response": prompt + "I do not know.", "golden_answers": ["Beijing"]},
        {"response": f"<|im_start|>user\n{prompt}<|im_end|>\nI think.", "golden_answers": "Beijing"},
        {"response": prompt + "<answer>Beijing</answer>", "golden_answers": ["Beijing"]},
        {"response": get("autorefine").prompt("x")[0]["content"], "golden_answers": ["Donald Trump"]},
    ]
    scored = score_file(write(tmp_path / "rows.jsonl", rows), ScoreFields())
    assert scored.sets["rows.jsonl"]["EM"] == [0.0, 0.0, 1.0, 0.0]
    assert scored.unanswered == 3
    assert response_of("no prompt", R1) == "no prompt"
    said = "For example <answer>Rome</answer> is wrong."
    assert response_of(prompt + said, R1).endswith(said)


PROMPTS = [
    "<|im_start|>user\nAnswer inside <answer> and </answer>, like so: <answer> Beijing </answer>. q?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "system\nUse tags. Write <answer>Beijing</answer>.\nuser\nq?\nassistant\n",
    "<start_of_turn>user\nWrite <answer>Beijing</answer>. q?<end_of_turn>\n<start_of_turn>model\n",
    "[INST] Write <answer>Beijing</answer>. q? [/INST]",
    "Answer inside <answer> and </answer>. For example, <answer> Beijing </answer>. Question: q?\n",
    "Give it in this format: <answer>Beijing</answer>\nQuestion: q?\n",
    "Give the final answer between <answer>...</answer>. Question: q?\n",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_example_of_a_prompt_in_other_words_is_not_scored(prompt: str, tmp_path: Path) -> None:
    thought = "<think>I put it inside <answer> and </answer>.</think>"
    rows = [
        {"response": f"{prompt}<think>I do not know.</think>", "golden_answers": ["Beijing"]},
        {"response": f"{prompt}{thought}<answer>Beijing</answer>", "golden_answers": ["Beijing"]},
        {"response": f"{prompt}<answer>Rome</answer>", "golden_answers": ["Beijing"]},
    ]
    scored = score_file(write(tmp_path / "rows.jsonl", rows), ScoreFields())
    assert scored.sets["rows.jsonl"]["EM"] == [0.0, 1.0, 0.0]
    assert scored.unanswered == 1


@pytest.mark.parametrize("end", ["", "\n", "<|im_end|>\n", "</s>"])
@pytest.mark.parametrize(
    "text",
    [
        "Based on this, the answer is <answer> Paris </answer>",
        "I know this. <answer>Paris</answer>",
        "<think>Cities such as Lyon are out.</think> Something like <answer>Paris</answer>",
    ],
)
def test_the_answer_that_ends_a_response_is_no_example(text: str, end: str, tmp_path: Path) -> None:
    rows = [{"response": text + end, "golden_answers": ["Paris"]}]
    assert ems(write(tmp_path / "rows.jsonl", rows)) == [1.0]


def test_answers_in_passages_and_several_and_unclosed(tmp_path: Path) -> None:
    found = R1.observation("Doc 1(Title: T) <answer>leak</answer>")
    rows = [
        {"response": f"<search>q</search>{found}", "golden_answers": ["leak"]},
        {"response": "<answer>one</answer><answer>two</answer>", "golden_answers": ["two"]},
        {"response": "<answer>one</answer><answer>two", "golden_answers": ["one"]},
        {"response": "<answer>one", "golden_answers": ["one"]},
        {"response": "", "golden_answers": ["one"]},
    ]
    assert ems(write(tmp_path / "rows.jsonl", rows)) == [0.0, 1.0, 1.0, 0.0, 0.0]


def test_fields_of_other_peoples_files(tmp_path: Path) -> None:
    rows = [
        {
            "output": "<answer>the Beatles!</answer>",
            "reward_model": {"ground_truth": {"target": ["Beatles"]}},
        },
        {"output": "<answer>Zürich</answer>", "reward_model": {"ground_truth": "Rom"}},
    ]
    fields = ScoreFields(text="output", golden="reward_model.ground_truth")
    assert ems(write(tmp_path / "rows.jsonl", rows), fields) == [1.0, 0.0]


def test_malformed_rows_are_named_and_the_others_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"response": "<answer>b c</answer>", "golden_answers": ["b"]})
    path.write_text(
        good + '\n{"response": 3, "golden_answers": ["b"]}\n{broken\n{"response": "x"}\n' + good + "\n"
    )
    assert main(["score", str(path)]) == 1
    shown = capsys.readouterr()
    assert "line 2, field 'response': is a number" in shown.err
    assert "line 3: not JSON" in shown.err
    assert "line 4, field 'golden_answers': is missing" in shown.err
    assert "2 rows scored, 0 of them without an answer; 3 malformed" in shown.out
    assert "66.7 [66.7, 66.7]" in shown.out  # F1
    assert "100.0 [100.0, 100.0]" in shown.out  # cover-EM
    assert "average" not in shown.out


def test_a_misnamed_field_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "rows.jsonl", [{"output": "<answer>b</answer>", "golden_answers": ["b"]}] * 50)
    assert main(["score", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "all 50 rows, field 'response': is missing" in line
    assert "the first row has output, golden_answers" in line


def test_sets_get_a_line_each_and_both_averages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"pred": "x" if right else None, "gold": "x", "data_source": name}
        for name, rights in (("nq", [1] * 30 + [0] * 10), ("bamboogle", [0] * 4))
        for right in rights
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    assert main(["score", str(path), "--answer", "pred", "--golden", "gold", "--by", "data_source"]) == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "75.0 [" in lines["nq"]
    assert "37.5 [" in lines["macro average"]
    assert "68.2 [" in lines["micro average"]


def test_a_set_without_a_name_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"response": "<answer>x</answer>", "golden_answers": "x"}
    path = write(tmp_path / "rows.jsonl", [row | {"source": "nq"}, row | {"source": 5}])
    assert main(["score", str(path), "--by", "source"]) == 1
    shown = capsys.readouterr()
    assert "line 2, field 'source': is a number" in shown.err
    assert "1 rows scored" in shown.out


def test_a_file_without_rows_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(write(tmp_path / "rows.jsonl", []))]) == 1
    assert "rows.jsonl has no row" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "none.jsonl")]) == 1
    assert "none.jsonl is missing" in capsys.readouterr().err


def test_a_file_gives_the_terminal_no_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of sets and fields come from the file, which may be anybody's."""
    commands = "\x1b]0;owned\x07\x9b2J"
    row = {f"pred{commands}": "a", "gold": ["a"], "source": f"nq{commands}"}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    fields = ["--golden", "gold", "--by", "source"]
    assert main(["score", str(path), "--answer", f"pred{commands}", *fields]) == 0
    assert main(["score", str(path), "--answer", "pred", *fields]) == 1
    said = capsys.readouterr()
    assert "nq\ufffd]0;owned" in said.out
    for line in (said.out + said.err).splitlines():
        assert line.isprintable(), line
