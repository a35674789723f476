"""Forms of the block are probed on one set of groups, and credit is drawn token by token."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.real_model import forms, picture
from sd_search_verl.world.config import CHECKPOINT


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forms") / "groups.jsonl"
    lines = [
        {
            "question": f"tutor of {name} ?",
            "prompt": f"Question: tutor of {name} ?\n",
            "response": f"<search> {word} {name} </search>\n\n<information>Doc 1(Title: {name}) {answer}</information>"
            f"\n\n<answer> {answer} </answer>",
            "golden_answers": ["Eve"],
        }
        for name in ("Ada", "Otto")
        for word, answer in (("tutor", "Eve"), ("mentor", "Max"), ("coach", "Max"))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_each_form_adds_a_row_once(traces: Path, tmp_path: Path) -> None:
    table = tmp_path / "probe.csv"
    arguments = [str(CHECKPOINT), "--traces", str(traces), "--csv", str(table), "--forms", "default"]
    assert forms.main(arguments) == 0
    assert forms.main([*arguments, "layout=sections", "own=hidden"]) == 0
    with table.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["block"] for row in rows] == ["default", "layout=sections", "own=hidden"]
    assert len({row["label_sensitivity_mean"] for row in rows}) == 3
    assert {row["sign_accuracy_n"] for row in rows} == {"2"}


def test_a_form_goes_before_the_options_that_every_form_has(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(CHECKPOINT), "--traces", str(traces), "--csv", str(tmp_path / "probe.csv")]
    arguments += ["--forms", "layout=sections", "--base"]
    assert forms.main([*arguments, "layout=tags"]) == 0
    assert forms.main([*arguments, "layuot=tags", "--name", "other"]) == 1
    assert "hindsight.layuot" in capsys.readouterr().err


def test_the_picture_shows_a_correct_and_an_incorrect_query_under_both_labels(
    traces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "credit.svg"
    assert picture.main([str(CHECKPOINT), "--traces", str(traces), "--out", str(out)]) == 0
    texts = [text.text or "" for text in ElementTree.parse(out).iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text.endswith("CORRECT")] == ["CORRECT", "INCORRECT"]
    assert (
        sum(text.startswith("true ") for text in texts)
        == sum(text.startswith("flipped ") for text in texts)
        == 2
    )
    assert "tutor" in " ".join(texts)
