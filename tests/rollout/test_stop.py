"""vLLM's own detokenizer ends a turn at a closing tag, whatever kind of token the tag is."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from support.tokenizer_families import family
from vllm import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from sd_search_verl.protocol import get, tool_call
from sd_search_verl.rollout.loop import stop_params

TAGS = ["<search>", "</search>", "<answer>", "</answer>", "<information>", "</information>"]
TURNS = {
    "</search>": (get("search_r1"), "<search> Hattusa </search> and more"),
    "</tool_call>": (
        replace(tool_call("hermes"), parallel=False),
        '<tool_call>\n{"name": "search", "arguments": {"query": "Hattusa"}}\n</tool_call>\n<tool_call> and more',
    ),
}


@pytest.mark.parametrize("closing", TURNS)
@pytest.mark.parametrize("special", [None, False, True], ids=["text", "added token", "special token"])
@pytest.mark.parametrize("name", ["qwen", "llama-2", "unigram"])
def test_a_turn_ends_where_its_search_closes(name: str, special: bool | None, closing: str) -> None:
    protocol, text = TURNS[closing]
    tokenizer = copy.deepcopy(family(name))
    if special is not None:
        tokenizer.add_tokens([*TAGS, "<tool_call>", "</tool_call>"], special_tokens=special)
    prompt = tokenizer.encode("Question: q", add_special_tokens=False)
    turn = tokenizer.encode(text, add_special_tokens=False)
    request = EngineCoreRequest(
        request_id="0",
        prompt_token_ids=prompt,
        mm_features=None,
        sampling_params=SamplingParams(max_tokens=100, **stop_params(protocol, tokenizer)),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
    stopped = [detokenizer.update([index], stop_terminated=False) for index in turn]
    (found,) = [(place, tag) for place, tag in enumerate(stopped) if tag is not None][:1]
    assert found[1] == closing
    assert found[0] < len(turn) - 1
