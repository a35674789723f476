"""A rollout whose generation is aborted at any token and resumed under newer weights is the same rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support.tiny import byte_tokenizer
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.workers.rollout.replica import TokenOutput

from sd_search_verl.config import SearchConfig
from sd_search_verl.protocol import get
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.rollout.record import from_plain
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.rollout.versions import query_versions, version_at
from sd_search_verl.verl_adapter.rollout import agent_loop
from sd_search_verl.verl_adapter.rollout.server_client import ResumingServerClient

TOKENIZER = byte_tokenizer([(">", "Ċ"), ("?", "<"), ("?<", "/")])
R1 = get("search_r1")
# What the policy would go on to write if nothing stopped it.
TURNS = [
    "<think>hm</think><search>who wrote it?</search>\n<information>made up</information>",
    "no action at all",
    "<search> second </search> <search> too late </search>",
    "<answer>me</answer> and more",
]


class Remote:
    """A method of a Ray actor, without Ray."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        return asyncio.ensure_future(self.method(*args, **kwargs))


class Server:
    """A rollout server as verl's on vLLM: stop strings are searched in what this request has written.

    Args:
        cuts: after how many tokens each request is aborted, by order; afterwards none is.
    """

    def __init__(self, cuts: list[int]) -> None:
        self.cuts, self.version = iter(cuts), 5
        self.seeds: list[int] = []
        self.asked: list[tuple[int, int]] = []
        self.prompt: list[int] | None = None
        self.generate = Remote(self._generate)
        self.require_acquire_fields = self.require_release_fields = Remote(self._no_fields)
        self.acquire_server, self.release_server = Remote(self._acquire), Remote(self._no_fields)

    async def _no_fields(self, **_: Any) -> list[str]:
        return []

    async def _acquire(self, **_: Any) -> tuple[str, Server]:
        return "server", self

    def _written(self, prompt_ids: list[int]) -> tuple[int, int]:
        """Which turn it is, and how many of its tokens the request already has."""
        self.prompt = self.prompt or prompt_ids
        text = TOKENIZER.decode(prompt_ids[len(self.prompt) :])
        ends = [R1.observation_close + "\n\n", R1.invalid_action]
        turn = sum(text.count(end) for end in ends)
        last = max((text.rfind(end) + len(end) for end in ends if end in text), default=0)
        return turn, len(TOKENIZER.encode(text[last:], add_special_tokens=False))

    async def _generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        turn, written = self._written(prompt_ids)
        self.seeds.append(sampling_params["seed"])
        self.asked.append((turn, sampling_params["max_tokens"]))
        cut = next(self.cuts, None)
        ids: list[int] = []
        reason, version = "completed", self.version
        for token in TOKENIZER.encode(TURNS[turn], add_special_tokens=False)[written:]:
            if len(ids) == cut:
                reason = "aborted"
                self.version += 1
                break
            if len(ids) == sampling_params["max_tokens"]:
                break
            ids.append(token)
            if any(stop in TOKENIZER.decode(ids) for stop in sampling_params["stop"]):
                break
        log_probs = [-1.0 - written - i for i in range(len(ids))] if ids else None
        return TokenOutput(
            token_ids=ids, log_probs=log_probs, stop_reason=reason, extra_fields={"global_steps": version}
        )


async def find(query: str) -> SearchResult:
    await asyncio.sleep(0)
    return SearchResult([Document("1", f"Title\nabout {query}", 1.0)], 0.01, None)


@pytest.fixture(scope="module", autouse=True)
def without_waiting() -> Iterator[None]:
    """verl waits a second before it repeats an aborted request."""
    with pytest.MonkeyPatch.context() as patch:
        sleep = asyncio.sleep
        patch.setattr(asyncio, "sleep", lambda _: sleep(0))
        patch.setattr(agent_loop, "shared_client", lambda _: SimpleNamespace(search=find))
        yield


def play(cuts: list[int], **limits: Any) -> tuple[Rollout, Any, Server]:
    """Run verl's client and our agent loop on a server that aborts."""
    server = Server(cuts)
    search = {**SearchConfig(sampling_seed=3).model_dump(), **limits}
    engine = {"name": "vllm", "prompt_length": 400, "response_length": 1000, "max_model_len": None}
    config = OmegaConf.create({"search": search, "actor_rollout_ref": {"rollout": engine}, "data": {}})
    loop = agent_loop.SearchAgentLoop(
        trainer_config=DictConfigWrap(config),
        server_manager=ResumingServerClient(config, server),
        tokenizer=TOKENIZER,
        processor=None,
        dataset_cls=None,
        data_config=DictConfigWrap(config.data),
    )
    row = {"uid": "q", "session_id": 0, "global_steps": 6, "reward_model": {"ground_truth": ["me"]}}
    messages = [{"role": "user", "content": "Question: q?"}]
    output = asyncio.run(loop.run({"logprobs": True}, raw_prompt=messages, **row))
    rollout = from_plain(
        output.extra_fields["sd_search"],
        messages,
        output.prompt_ids,
        output.response_ids,
        output.response_mask,
    )
    return rollout, output, server


@cache
def whole() -> tuple[Rollout, Any]:
    """The rollout that nothing interrupts, and what verl is given of it."""
    rollout, output, _ = play([])
    return rollout, output


def test_the_uninterrupted_rollout_has_one_version() -> None:
    rollout, output = whole()
    assert rollout.status == "answered"
    assert rollout.queries == ["who wrote it?", "second"]
    assert rollout.versions == [(0, 5)]
    assert output.extra_fields["max_global_steps"] == 5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=25))
def test_aborts_change_nothing_but_the_versions(cuts: list[int]) -> None:
    rollout, output, server = play(cuts)
    expected, expected_output = whole()
    for name, value in vars(expected).items():
        if name != "versions":
            assert getattr(rollout, name) == value, name
    assert output.response_logprobs == expected_output.response_logprobs
    spans = [span for span in rollout.spans if span[0] < span[1]]
    assert spans == query_spans(rollout.response_ids, TOKENIZER, R1, rollout.response_mask)
    # Versions never fall, and are those of the first and last attempt that wrote something.
    known = [version for _, version in rollout.versions]
    assert known == sorted(set(known))
    assert [start for start, _ in rollout.versions] == sorted({start for start, _ in rollout.versions})
    assert output.extra_fields["min_global_steps"] == known[0]
    assert output.extra_fields["max_global_steps"] == known[-1] <= server.version
    # A limit counts a turn's tokens once, and no two attempts draw the same random numbers.
    for turn in {turn for turn, _ in server.asked}:
        limits = [limit for asked, limit in server.asked if asked == turn]
        assert limits == sorted(limits, reverse=True)
    drawn = [
        seed for seed, before in zip(server.seeds, [None, *server.seeds], strict=False) if seed != before
    ]
    assert len(drawn) == len(set(drawn))


def test_a_query_of_two_versions_is_recorded_token_by_token() -> None:
    before = len(TOKENIZER.encode("<think>hm</think><search>who ", add_special_tokens=False))
    rollout, *_ = play([before])
    assert rollout.versions == [(0, 5), (before, 6)]
    (start, end), _ = rollout.spans
    assert [version_at(rollout, j) for j in range(start, end)] == [5] * (before - start) + [6] * (
        end - before
    )
    assert set(query_versions(rollout)) == {5, 6}


@pytest.mark.parametrize("tag", ["</search>", "</sea", "<", "</search"])
def test_a_stop_string_that_straddles_the_abort_still_ends_the_turn(tag: str) -> None:
    """The request after the abort sees only the rest of the tag, and goes on into text nobody asked for."""
    text = TURNS[2][: TURNS[2].index("</search>")] + tag
    cuts = [10**6, 10**6, len(TOKENIZER.encode(text, add_special_tokens=False))]
    rollout, *_ = play(cuts)
    assert rollout.response_ids == whole()[0].response_ids
    assert "too late" not in rollout.response
    assert "made up" not in rollout.response


def test_the_limit_of_a_turn_counts_over_attempts() -> None:
    uncut, *_ = play([], max_turn_tokens=9, max_turns=2)
    parts, _, server = play([2, 3, 1], max_turn_tokens=9, max_turns=2)
    assert uncut.response_ids == parts.response_ids
    assert [limit for turn, limit in server.asked if turn == 0] == [9, 7, 4, 3]
