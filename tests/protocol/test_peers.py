"""The protocols against what the projects' own code says and what recorded agents were shown.

Digests and strings are of PeterGriffinJin/Search-R1 at a14dc3a (``scripts/data_process/qa_search_test_merge.py``,
``search_r1/llm_agent/generation.py``) and syr-cn/AutoRefine at 8363788 (``preprocess/data_process/utils.py``,
``search_r1/llm_agent/generation.py``). Both have one prompt, for base and for instruct models.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sd_search_verl.protocol import get
from sd_search_verl.protocol.prompt import encode_messages, render_messages
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.rollout.observation import ObservationEncoder

R1, AUTOREFINE = get("search_r1"), get("autorefine")
PLAIN = {"chat_template": "{{ messages[0]['content'] }}"}
ASSISTANT, QWEN = "You are a helpful assistant.", "You are Qwen, created by Alibaba Cloud. "


@cache
def records(folder: Path) -> list[dict[str, Any]]:
    """The recorded trajectories."""
    with gzip.open(folder / "wiki18-mini" / "trajectories_nq.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize(
    ("name", "digest", "example"),
    [
        ("search_r1", "cd98ab46c9f464b8fa3b1771b3a8a54ccb31a2da334f780e5f9b8dce8cb88f92", "Beijing"),
        ("autorefine", "74e9f939731d997e18aaa95249f76bc2c7d6fff84ba3bea793ab4536d06c93c0", "Donald Trump"),
    ],
)
def test_the_prompt_is_the_projects_own(name: str, digest: str, example: str) -> None:
    """SHA-256 of what their ``make_prefix`` gives for "who was it?"."""
    (message,) = get(name).prompt("who was it")
    assert hashlib.sha256(message["content"].encode()).hexdigest() == digest
    assert f"For example, <answer> {example} </answer>. Question: who was it?\n" in message["content"]


def test_the_observation_is_the_projects_own() -> None:
    """``_passages2string`` and ``execute_predictions``; AutoRefine's differ in the tags alone."""
    passages = ["\"Ohm's law\"\nOhm's law says. ", "No text", "T\ntwo\nlines"]
    text = "Doc 1(Title: \"Ohm's law\") Ohm's law says. \nDoc 2(Title: No text) \nDoc 3(Title: T) two\nlines"
    assert R1.observation(R1.documents(passages)) == f"\n\n<information>{text}</information>\n\n"
    assert AUTOREFINE.observation(AUTOREFINE.documents(passages)) == f"\n\n<documents>{text}</documents>\n\n"
    assert R1.invalid_action == AUTOREFINE.invalid_action
    assert R1.invalid_action.startswith("\nMy previous action is invalid. If I want to search, I should put ")
    assert R1.invalid_action.endswith("between <answer> and </answer>. Let me try again.\n")


def test_long_observations_are_cut_as_theirs(qwen_tokenizer: Any) -> None:
    """``_process_next_obs``: encode the whole observation, then ``next_obs_ids[:, :max_obs_length]``."""
    long = [Document(str(i), f'"Title {i}"\n' + "Some words of a passage. " * 60, None) for i in range(3)]
    for protocol, limit in ((R1, 500), (AUTOREFINE, 512)):
        ids, cut = ObservationEncoder(qwen_tokenizer, protocol, limit).documents(
            SearchResult(long, 0.0, None)
        )
        theirs = protocol.observation(protocol.documents([document.contents for document in long]))
        assert cut
        assert ids == qwen_tokenizer.encode(theirs, add_special_tokens=False)[:limit]
        assert protocol.observation_close not in qwen_tokenizer.decode(ids)


def test_base_and_instruct_models_differ_in_their_template_alone(qwen_tokenizer: Any) -> None:
    messages = AUTOREFINE.prompt("who was it")
    instruct = render_messages(messages, qwen_tokenizer)
    base = render_messages(messages, qwen_tokenizer, {"chat_template": base_template(qwen_tokenizer)})
    assert instruct.startswith(
        f"<|im_start|>system\n{QWEN}{ASSISTANT}<|im_end|>\n<|im_start|>user\nYou are a "
    )
    assert instruct.endswith("Question: who was it?\n<|im_end|>\n<|im_start|>assistant\n")
    assert base == instruct.replace(QWEN, "")
    assert render_messages(messages, qwen_tokenizer, PLAIN) == messages[0]["content"]
    assert encode_messages(messages, qwen_tokenizer) == qwen_tokenizer.encode(instruct)


def base_template(tokenizer: Any) -> str:
    """Qwen2.5's base models differ from its instruct models in the default system message."""
    return str(tokenizer.chat_template).replace(QWEN, "")


def test_every_recorded_prompt(real_data: Path, qwen_tokenizer: Any) -> None:
    """One run asked without a template, the other in that of Qwen2.5's base models."""
    templates = {"v0-base": PLAIN, "v1-base": {"chat_template": base_template(qwen_tokenizer)}}
    assert len(records(real_data)) == 2000
    for record in records(real_data):
        template = templates[record["run"]]
        messages = R1.prompt(record["question"])
        assert render_messages(messages, qwen_tokenizer, template) == record["prompt"]
        assert encode_messages(messages, qwen_tokenizer, template) == qwen_tokenizer.encode(record["prompt"])


def test_every_recorded_observation(real_data: Path, qwen_tokenizer: Any) -> None:
    """All 1,975, from corpus passages; in 13 the recorded run cut the text at 500 tokens, just after a space.

    The corpus was collected from such texts: there it has the passage without that space.
    """
    corpus: dict[str, str] = {}
    with (real_data / "wiki18-mini" / "corpus.jsonl").open() as file:
        for line in file:
            contents = json.loads(line)["contents"]
            title, _, text = contents.partition("\n")
            corpus[f"(Title: {title}) {text}".strip()] = contents
    encoder = ObservationEncoder(qwen_tokenizer, R1, 10_000)
    equal = cut = 0
    for record in records(real_data):
        for match in re.finditer(
            r"</search>(\n\n<information>(.*?)</information>\n\n)", record["response"], re.DOTALL
        ):
            pieces = re.split(r"(?:^|\n)Doc \d+(?=\(Title: )", match[2])[1:]
            passages = [corpus[piece.strip()] for piece in pieces]
            rebuilt = R1.observation(R1.documents(passages))
            if rebuilt != match[1]:
                assert len(qwen_tokenizer.encode(match[2])) == 500
                assert rebuilt == match[1].replace(" </information>", "</information>")
                cut += 1
                continue
            equal += 1
            if equal % 20 == 0:  # and as the agent loop gives it to the policy
                found = [Document("", text, None) for text in passages]
                ids, _ = encoder.documents(SearchResult(found, 0.0, None))
                assert ids == qwen_tokenizer.encode(match[1])
    assert (equal, cut) == (1962, 13)
