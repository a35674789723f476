"""The protocol of a text: by its prompt, else by its observation tags, else search_r1."""

from __future__ import annotations

from typing import get_args

import pytest

from sd_search_verl.config import ProtocolName
from sd_search_verl.protocol import Protocol, detect, explained_instead, get, names


def test_the_config_accepts_exactly_the_protocols_that_exist() -> None:
    assert get_args(ProtocolName) == names()


@pytest.mark.parametrize("protocol", map(get, names()), ids=names())
def test_a_protocol_is_detected(protocol: Protocol) -> None:
    other = next(get(name) for name in names() if name != protocol.name)
    prompt = protocol.prompt("who")[0]["content"]
    assert detect(prompt) == protocol
    assert detect(f"a{protocol.observation('x')}b") == protocol
    # Documents may hold any text; the prompt decides.
    assert detect(prompt + other.observation("x")) == protocol


def test_a_text_without_a_sign_is_search_r1() -> None:
    assert detect("<answer> x </answer>").name == "search_r1"


@pytest.mark.parametrize("protocol", map(get, names()), ids=names())
def test_a_prompt_of_another_protocol_is_named_and_one_of_none_is_not(protocol: Protocol) -> None:
    others = [name for name in names() if name != protocol.name]
    prompt = protocol.prompt("who")[0]["content"]
    assert {explained_instead(prompt, other) for other in others} == {protocol.name}
    assert explained_instead(prompt, protocol.name) is None
    assert explained_instead("who?", protocol.name) is None
    assert explained_instead(get(others[0]).prompt("who")[0]["content"] + prompt, protocol.name) is None


def test_families_of_tool_calls_are_one_protocol() -> None:
    prompt = get("tool_call").prompt("who")[0]["content"]
    assert explained_instead(prompt, "tool_call:hermes") is None
    assert explained_instead(prompt, "search_r1") == "tool_call"
