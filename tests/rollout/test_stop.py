"""vLLM's own detokenizer ends a turn at a closing tag, whatever kind of token the tag is."""

from __future__ import annotations

import copy

import pytest
from support.tokenizer_families import family
from vllm import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from sd_search_verl.protocol import get
from sd_search_verl.rollout.loop import stop_params

R1 = get("search_r1")
TAGS = ["<search>", "</search>", "<answer>", "</answer>", "<information>", "</information>"]


@pytest.mark.parametrize("special", [None, False, True], ids=["text", "added token", "special token"])
@pytest.mark.parametrize("name", ["qwen", "llama-2", "unigram"])
def test_a_turn_ends_at_the_closing_tag(name: str, special: bool | None) -> None:
    tokenizer = copy.deepcopy(family(name))
    if special is not None:
        tokenizer.add_tokens(TAGS, special_tokens=special)
    prompt = tokenizer.encode("Question: q", add_special_tokens=False)
    turn = tokenizer.encode("<search> Hattusa </search> and more", add_special_tokens=False)
    request = EngineCoreRequest(
        request_id="0",
        prompt_token_ids=prompt,
        mm_features=None,
        sampling_params=SamplingParams(max_tokens=100, **stop_params(R1)),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
    stopped = [detokenizer.update([index], stop_terminated=False) for index in turn]
    (found,) = [(place, tag) for place, tag in enumerate(stopped) if tag is not None][:1]
    assert found[1] == "</search>"
    assert found[0] < len(turn) - 1
