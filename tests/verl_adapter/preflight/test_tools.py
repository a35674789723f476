"""The start checks of tool calls: the family, the template's tools, and its tool messages."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from support.chat_templates import MODEL_TYPES, chat_tokenizer
from support.tokenizer_families import family as tokenizer_of

from sd_search_verl.protocol.families import FAMILIES
from sd_search_verl.verl_adapter.preflight.tools import (
    NO_END,
    NO_RESULTS,
    NO_TOOLS,
    OTHER_FAMILY,
    THINKS,
    check_tools,
)


def calling(good: DictConfig, family: str = "hermes", **options: Any) -> DictConfig:
    config = copy.deepcopy(good)
    OmegaConf.set_struct(config, False)
    config.search.protocol = "tool_call"
    config.search.tool_call = {"family": family, "tools": ["search", "read"], "answer": "tag", **options}
    return config


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_the_family_passes(good: DictConfig, family: str) -> None:
    tokenizer = chat_tokenizer(tokenizer_of("llama-3"), family)
    assert [*check_tools(calling(good, family), tokenizer, MODEL_TYPES[family])] == []


def test_tags_need_no_template_with_tools(good: DictConfig) -> None:
    assert [*check_tools(good, tokenizer_of("llama-3"), "llama")] == []


@pytest.mark.parametrize("family", ["nonsense", "gpt-oss"])
def test_a_family_that_cannot_be_read_is_named(good: DictConfig, family: str) -> None:
    (finding,) = check_tools(
        calling(good, family), chat_tokenizer(tokenizer_of("llama-3"), "hermes"), "qwen3"
    )
    assert finding.name == OTHER_FAMILY.name
    assert f"tool_call:{family}" in finding.found


def test_a_tokenizer_that_the_builder_refuses_is_named(good: DictConfig) -> None:
    """Mistral's line end is two tokens, and Qwen's boundary needs one."""
    (finding,) = check_tools(calling(good), chat_tokenizer(tokenizer_of("mistral"), "hermes"), "qwen3")
    assert "does not fit a qwen3 model" in finding.found


def test_a_template_without_tools_is_named(good: DictConfig) -> None:
    tokenizer = chat_tokenizer(tokenizer_of("llama-3"), "hermes")
    tokenizer.chat_template = tokenizer.chat_template.replace("if tools", "if false")
    assert [finding.name for finding in check_tools(calling(good), tokenizer, "qwen3")] == [NO_TOOLS.name]


def test_a_template_without_tool_messages_is_named(good: DictConfig) -> None:
    tokenizer = chat_tokenizer(tokenizer_of("llama-3"), "hermes")
    tokenizer.chat_template = tokenizer.chat_template.replace("m.role == 'tool'", "m.role == 'never'")
    (finding,) = check_tools(calling(good), tokenizer, "qwen3")
    assert finding.found.startswith(NO_RESULTS.broken.partition("{")[0])


def test_a_tokenizer_without_an_end_of_turn_is_named(good: DictConfig) -> None:
    tokenizer = copy.deepcopy(tokenizer_of("llama-3"))
    tokenizer.eos_token = None
    tokenizer.chat_template = chat_tokenizer(tokenizer_of("llama-3"), "hermes").chat_template
    (finding,) = check_tools(calling(good), tokenizer, "llama")
    assert finding.name == NO_END.name


@pytest.mark.parametrize("thinks", [True, False])
def test_a_turn_that_ends_at_its_first_call_is_not_for_a_policy_that_thinks(
    good: DictConfig, thinks: bool
) -> None:
    tokenizer = chat_tokenizer(tokenizer_of("llama-3"), "hermes")
    config = calling(good, parallel=False)
    config.data.apply_chat_template_kwargs = {"enable_thinking": thinks}
    assert [finding.name for finding in check_tools(config, tokenizer, "qwen3")] == [THINKS.name] * thinks
    config.search.tool_call.parallel = True
    assert [*check_tools(config, tokenizer, "qwen3")] == []
