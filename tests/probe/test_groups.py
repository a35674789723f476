"""Groups of rollouts from files: what a line may hold, and what of it is named as wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sd_search_verl import protocol as protocols
from sd_search_verl.errors import UserError
from sd_search_verl.probe.groups import Group, read_groups
from sd_search_verl.world.config import CHECKPOINT

TOKENIZER = AutoTokenizer.from_pretrained(CHECKPOINT)
LINE = {"question": "who", "response": "<search> a </search><answer> b </answer>", "golden_answers": ["b"]}


def read(folder: Path, *lines: dict[str, Any]) -> list[Group]:
    path = folder / "rollouts.jsonl"
    path.write_text("".join(json.dumps({**LINE, **line}) + "\n" for line in lines))
    return read_groups(path, TOKENIZER, protocols.get("search_r1"))


def test_lines_of_one_question_or_one_id_or_one_group_are_a_group(tmp_path: Path) -> None:
    of_set = [{"set": "s", "id": key} for key in ("1", "2", "1")]
    of_group = [{"step": step, "group": [1]} for step in (1, 1, 2)]
    found = read(tmp_path, {}, *of_set, {"question": "when"}, *of_group, {})
    assert [len(group) for group in found] == [2, 2, 1, 1, 2, 1]


@pytest.mark.parametrize(
    "line",
    [
        {"golden_answers": "b"},
        {"prompt": "who"},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "who"}]}]},
        {"response": LINE["response"] + "\ud800"},
    ],
    ids=str,
)
def test_other_forms_of_a_field_are_read(line: dict[str, Any], tmp_path: Path) -> None:
    (((rollout,),)) = read(tmp_path, {**line, "score": 1})
    assert (rollout.em, rollout.queries, rollout.reward) == (1.0, ["a"], 1)
    assert isinstance(rollout.prompt.messages[-1]["content"], str)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"response": None}, "field 'response': is missing or null"),
        ({"question": 3}, "field 'question': is a number"),
        ({"prompt": 3}, "field 'prompt': is empty or no list"),
        ({"prompt": ["who"]}, "field 'prompt[0]': is no message"),
        ({"prompt": [{"role": "user", "content": None}]}, "field 'prompt[0].content': is missing"),
        ({"golden_answers": None}, "field 'golden_answers': must be a text or a list of texts"),
        ({"golden_answers": [None]}, "field 'golden_answers': must be a text or a list of texts"),
        ({"score": "1"}, "field 'score': must be a number"),
    ],
    ids=str,
)
def test_a_field_of_another_type_is_named(line: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, {}, line)
    assert f"rollouts.jsonl: line 2, {says}" in str(caught.value)


@pytest.mark.parametrize("where", ["prompt", "response"])
def test_rollouts_of_another_protocol_are_refused_with_its_name(where: str, tmp_path: Path) -> None:
    other = protocols.get("autorefine")
    line: dict[str, Any] = {
        "prompt": {"prompt": other.prompt("who")},
        "response": {"response": f"<search> a </search>{other.observation('x')}<answer> b </answer>"},
    }[where]
    with pytest.raises(
        UserError, match=r"line 1.* of autorefine, not of protocol=search_r1. Fix: --set protocol="
    ):
        read(tmp_path, line)


def test_prompts_are_encoded_with_the_arguments_of_the_chat_template(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    path.write_text(json.dumps(LINE) + "\n")
    prompts = []
    for mark in ("<", "<<<"):
        template = {
            "chat_template": f"{{% for message in messages %}}{mark}{{{{ message.content }}}}{{% endfor %}}"
        }
        (((rollout,),)) = read_groups(path, TOKENIZER, protocols.get("search_r1"), template)
        prompts.append(TOKENIZER.decode(rollout.prompt.token_ids))
    assert prompts[1] == "<<" + prompts[0]
