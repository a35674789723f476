"""Prompts: what a protocol tells the policy, and messages whose content is a list of text parts."""

from __future__ import annotations

import copy
import re

import pytest
from support.tokenizer_families import family

from sd_search_verl import protocol as protocols
from sd_search_verl.protocol.prompt import text_messages, writes_time
from sd_search_verl.protocol.tags import TagProtocol


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "who wrote "}, {"type": "text", "text": "Emma"}]
    assert text_messages([{"role": "user", "content": parts}]) == [
        {"role": "user", "content": "who wrote Emma"}
    ]


def test_texts_stay_and_the_messages_given_are_not_changed() -> None:
    given = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
    ]
    assert text_messages(given)[0] == given[0]
    text_messages(given)[0]["content"] = "other"
    assert given[0]["content"] == "Be brief."
    assert given[1]["content"] == [{"type": "text", "text": "q"}]


@pytest.mark.parametrize(
    ("template", "kwargs", "writes"),
    [
        ("{{ messages[0].content }}", {}, False),
        ("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}", {}, True),
        ("{{ date_string if date_string is defined else strftime_now('%d') }}", {}, True),
        ("{{ date_string if date_string is defined else strftime_now('%d') }}", {"date_string": "1"}, False),
    ],
)
def test_a_template_that_writes_the_time_is_known(
    template: str, kwargs: dict[str, str], writes: bool
) -> None:
    tokenizer = copy.deepcopy(family("qwen"))
    tokenizer.chat_template = template
    assert writes_time([{"role": "user", "content": "who?"}], tokenizer, kwargs) == writes


@pytest.mark.parametrize("name", protocols.names())
def test_the_prompt_holds_the_question_as_it_is(name: str) -> None:
    (message,) = protocols.get(name).prompt("what is {x} in {question}")
    assert "what is {x} in {question}?" in message["content"]


@pytest.mark.parametrize("name", [name for name in protocols.names() if name != "tool_call"])
def test_prompt_and_notice_tell_the_protocols_own_tags(name: str) -> None:
    protocol = protocols.get(name)
    assert isinstance(protocol, TagProtocol)
    acting = {protocol.search_open, *protocol.stop, protocol.answer_open}
    assert acting <= set(re.findall(r"</?\w+>", protocol.invalid_action)) <= acting
    observed = {protocol.observation_open, protocol.observation_close}
    assert acting | observed <= set(re.findall(r"</?\w+>", protocol.prompt_template))
