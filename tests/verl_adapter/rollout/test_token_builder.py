"""What follows a turn is encoded as verl's builder of the model has it, and only once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chat_templates import MODEL_TYPES, chat_tokenizer
from support.tool_rollouts import QUESTION, Counting, tokenizer
from tokenizers import AddedToken
from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from sd_search_verl.protocol.tools import SCHEMAS
from sd_search_verl.verl_adapter.rollout.token_builder import context_builder

TOOLS = [SCHEMAS["search"]]
CALL = {"type": "function", "function": {"name": "search", "arguments": {"query": "a b"}}}
BASES = ["qwen", "llama-3", "gemma"]
"""Tokenizers for which verl has a builder of ChatML: a line end is one token."""
PIECES = [
    "Doc 1(Title: ",
    "é",
    "東京",
    "🎬",
    " ",
    "\n",
    "\n\n",
    ".",
    ")",
    "x1984",
    "</tool_response>",
    "\u2581",
    '"',
]


def merged(builder: ContinuousTokenBuilder, results: list[str], notice: str | None = None) -> list[int]:
    """The tokens after a turn with a call for each result, or without one and with a notice."""
    before = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [CALL] * len(results)}]
    messages = [{"role": "tool", "name": "search", "content": result} for result in results]
    if notice is not None:
        messages = [{"role": "user", "content": notice}]
    return list(builder.merge_context_tokens(before, [*before, *messages], [5], tools=TOOLS).token_ids)


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(list(MODEL_TYPES)),
    base=st.sampled_from(BASES),
    results=st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1, max_size=3),
)
def test_the_tokens_are_those_of_verls_builder(family: str, base: str, results: list[str]) -> None:
    """Whatever a result begins or ends with, in every tokenizer."""
    coder = tokenizer(family, base)
    ours = context_builder(coder, MODEL_TYPES[family], {"tools": TOOLS})
    theirs = create_continuous_token_builder(coder, hf_model_type=MODEL_TYPES[family])
    assert merged(ours, results) == merged(theirs, results)
    assert merged(ours, [], results[0]) == merged(theirs, [], results[0])


@pytest.mark.parametrize("flag", ["lstrip", "normalized", "single_word"])
def test_a_start_of_a_message_that_depends_on_the_text_before_is_left_to_verl(flag: str) -> None:
    """verl's builder encodes both, or refuses a token that takes the line end before it."""
    coder = Counting(chat_tokenizer(tokenizer("hermes"), "hermes"))
    coder.add_tokens([AddedToken("<|im_start|>", special=True, **{flag: True})])
    ours = context_builder(coder, "qwen3", {"tools": TOOLS})
    theirs = create_continuous_token_builder(coder, hf_model_type="qwen3")
    coder.texts.clear()
    if flag == "lstrip":
        with pytest.raises(ValueError, match="suffix diff failed"):
            merged(ours, ["about"])
    else:
        assert merged(ours, ["about"]) == merged(theirs, ["about"])
    assert len(coder.texts) == 2


@pytest.mark.parametrize("family", ["hermes", "qwen3_coder"])
def test_tools_and_the_conversation_before_are_not_encoded_again(family: str) -> None:
    coder = Counting(tokenizer(family))
    builder = context_builder(coder, MODEL_TYPES[family], {"tools": TOOLS})
    coder.texts.clear()
    merged(builder, ["about who"])
    (text,) = coder.texts
    assert text.startswith("<|im_start|>user\n<tool_response>\nabout who\n</tool_response><|im_end|>\n")
    assert "Search for passages" not in text
