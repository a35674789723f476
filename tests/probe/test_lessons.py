"""Block lessons: nothing but the label says which query is the target, and plain turns stay the policy's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sd_search_verl import protocol as protocols
from sd_search_verl.cli import main
from sd_search_verl.config import ConfigError, read_config
from sd_search_verl.probe.config import LessonsConfig
from sd_search_verl.probe.groups import read_groups
from sd_search_verl.probe.lessons import Lessons
from sd_search_verl.world.config import CHECKPOINT
from sd_search_verl.world.model import build_model

TOKENIZER = AutoTokenizer.from_pretrained(CHECKPOINT)
PROTOCOL = protocols.get("search_r1")


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lessons") / "traces.jsonl"
    names = ("Ada", "Otto", "Ida", "Max")
    lines = [
        {
            "question": f"tutor of {name} ?",
            "prompt": f"Question: tutor of {name} ?\n",
            "response": f"<search> {word} {name} </search>\n\n<information>Doc 1(Title: {name}) Eve</information>\n\n"
            "<answer> Eve </answer>",
            "golden_answers": ["Eve"],
        }
        for name in names
        for word in ("tutor", "mentor", "coach")
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def texts(batch: list[tuple[list[int], list[bool]]]) -> list[tuple[str, str]]:
    """Return what is read and what carries loss of every example."""
    found = []
    for ids, loss in batch:
        first = loss.index(True)
        assert all(loss[first:])
        found.append((TOKENIZER.decode(ids[:first]), TOKENIZER.decode(ids[first:])))
    return found


def test_the_target_of_a_lesson_is_the_query_labelled_correct(traces: Path) -> None:
    config = LessonsConfig(lessons=60, plain=0)
    places = set()
    for read, target in texts(Lessons(read_groups(traces, TOKENIZER, PROTOCOL), TOKENIZER, config).batch()):
        labelled = re.findall(r"\d\. (CORRECT|INCORRECT): (.*)", read)
        assert len(labelled) == 5
        assert {query for label, query in labelled if label == "CORRECT"} == {
            target.removesuffix("</search>").strip()
        }
        assert read.endswith("<search>")
        places |= {place for place, (label, _) in enumerate(labelled) if label == "CORRECT"}
    assert places == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("change", ["group=leave_one_out", "group=own", "own=hidden", "content=full"])
def test_a_block_of_a_scored_rollout_is_refused(change: str) -> None:
    name, value = change.split("=")
    with pytest.raises(ConfigError, match=rf"hindsight\.{name}={value} is of a scored rollout"):
        read_config(LessonsConfig, {"hindsight": {name: value}}, "lessons")


def test_a_plain_turn_is_the_policys_own_without_a_block(traces: Path) -> None:
    config = LessonsConfig(lessons=0, plain=20)
    for read, target in texts(Lessons(read_groups(traces, TOKENIZER, PROTOCOL), TOKENIZER, config).batch()):
        assert "CORRECT" not in read
        assert re.fullmatch(r"<search> (tutor|mentor|coach) \w+ </search>", target.strip())


def test_the_command_teaches_and_writes_a_policy(traces: Path, tmp_path: Path, capsys: Any) -> None:
    start, out = tmp_path / "start", tmp_path / "taught"
    build_model(TOKENIZER).save_pretrained(start)
    TOKENIZER.save_pretrained(start)
    options = ["--traces", str(traces), "--set", "steps=15", "learning_rate=0.003"]
    assert main(["lessons", str(start), str(out), *options]) == 0
    first, last = map(
        float, re.findall(r"loss ([\d.]+) at first, ([\d.]+) at last", capsys.readouterr().out)[0]
    )
    assert last < 0.8 * first
    assert main(["probe", str(out), "--traces", str(traces)]) == 0
    assert main(["lessons", str(start), str(out), *options]) == 1
    assert "exists; give a folder that does not" in capsys.readouterr().err
