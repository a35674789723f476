"""Rollouts of tool calls: every way a turn can end, the invariants, and verl's own tool agent on the same tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.chat_templates import MODEL_TYPES, chat_tokenizer
from support.engine import compose
from support.tokenizer_families import family as tokenizer_of
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import OpenAIFunctionToolSchema

from sd_search_verl.config import SearchConfig
from sd_search_verl.protocol.families import FAMILIES
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.protocol.tool_call import ToolCallProtocol
from sd_search_verl.protocol.tools import SCHEMAS
from sd_search_verl.rollout.dialogue import protocol_of
from sd_search_verl.rollout.loop import Generation, run_rollout
from sd_search_verl.rollout.retriever import Document, SearchResult
from sd_search_verl.rollout.types import Prompt, Rollout
from sd_search_verl.verl_adapter import agent_loop
from sd_search_verl.verl_adapter.tool_dialogue import ToolDialogue

QUESTION = [{"role": "user", "content": "Question: who?\n"}]
KINDS = dict.fromkeys(
    (
        *("empty_query", "unfinished", "no_action"),
        *("bad_call", "unknown_tool", "bad_arguments", "unlocated"),
    ),
    0,
)


@cache
def tokenizer(family: str, base: str = "llama-3") -> Any:
    return chat_tokenizer(tokenizer_of(base), family)


def call(family: str, query: str, tool: str = "search", argument: str = "query") -> str:
    """A call as the model of a family writes it."""
    if family == "hermes":
        return f"<tool_call>\n{json.dumps({'name': tool, 'arguments': {argument: query}})}\n</tool_call>"
    if family == "qwen3_coder":
        inside = f"<parameter={argument}>\n{query}\n</parameter>"
        return f"<tool_call>\n<function={tool}>\n{inside}\n</function>\n</tool_call>"
    return f'<|tool_call>call:{tool}{{{argument}:<|"|>{query}<|"|>}}<tool_call|>'


def ended(family: str, text: str) -> str:
    """A turn with the token that ends it."""
    if family == "gemma4":
        return text if text.endswith("<tool_call|>") else f"{text}<turn|>"
    return f"{text}<|im_end|>"


async def found(query: str) -> SearchResult:
    return SearchResult([Document("7", f"Title\nabout {query}", 1.0)], 0.01, None)


def play(
    family: str,
    turns: list[str],
    room: int = 4000,
    search: Callable[[str], Any] = found,
    tools: dict[str, Any] | None = None,
    coder: Any = None,
    template_kwargs: dict[str, Any] | None = None,
    **limits: Any,
) -> Rollout:
    """Run a rollout whose policy says ``turns``, and check what must hold of every rollout."""
    coder = coder or tokenizer(family)
    options = {"family": family, **limits.pop("tool_call", {})}
    config = SearchConfig.model_validate({"protocol": "tool_call", "tool_call": options, **limits})
    protocol = protocol_of(config)
    assert isinstance(protocol, ToolCallProtocol)
    kwargs = {**(template_kwargs or {}), **protocol.template_kwargs}
    prompt = Prompt.encode("q", QUESTION, ["me"], coder, kwargs, 10_000)
    script = iter(turns)
    contexts: list[list[int]] = []
    sampled: list[int] = []

    async def generate(context: list[int], max_tokens: int) -> Generation:
        contexts.append(list(context))
        ids = coder.encode(next(script), add_special_tokens=False)[:max_tokens]
        sampled.extend(ids)
        return Generation(ids, [-0.5] * len(ids))

    dialogue = ToolDialogue(
        coder, protocol, MODEL_TYPES[family], kwargs, config.max_observation_tokens, tools or {}
    )
    rollout = asyncio.run(run_rollout(prompt, generate, search, coder, protocol, config, room, dialogue))
    assert len(rollout.response_ids) == len(rollout.response_mask) == len(rollout.log_probs or []) <= room
    wrote = [t for t, m in zip(rollout.response_ids, rollout.response_mask, strict=True) if m]
    assert wrote == sampled  # every sampled token is there, and no other has mask 1
    assert all(
        (p == -0.5) == bool(m) for p, m in zip(rollout.log_probs or [], rollout.response_mask, strict=True)
    )
    whole = prompt.token_ids + rollout.response_ids
    assert all(whole[: len(context)] == context for context in contexts)  # token in, token out
    assert len(rollout.queries) == len(rollout.spans)
    assert [s.query for s in rollout.searches] == rollout.queries[: len(rollout.searches)]
    spans = [span for span in rollout.spans if span[0] < span[1]]
    if not rollout.malformed["unlocated"] + rollout.malformed["unknown_tool"]:
        assert spans == query_spans(rollout.response_ids, coder, protocol, rollout.response_mask)
    assert set(spans) <= set(rollout.argument_spans)
    return rollout


def environment(rollout: Rollout, coder: Any) -> str:
    pairs = zip(rollout.response_ids, rollout.response_mask, strict=True)
    return decode([token for token, mask in pairs if not mask], coder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("base", ["llama-3", "tekken", "gemma"])
def test_search_then_answer(family: str, base: str) -> None:
    coder = tokenizer(family, base)
    turns = [
        ended(family, f"I search. {call(family, 'who are you?')}"),
        ended(family, "<answer> me </answer>"),
    ]
    rollout = play(family, turns, coder=coder)
    assert (rollout.status, rollout.answer, rollout.turns, rollout.em) == ("answered", "me", 2, 1.0)
    assert rollout.queries == ["who are you?"]
    assert "Doc 1(Title: Title) about who are you?" in environment(rollout, coder)
    assert rollout.malformed == KINDS
    ((start, end),) = rollout.spans
    assert decode(rollout.response_ids[start:end], coder).strip() in "who are you?"
    assert end - start > 2
    # The whole is what the template makes of the conversation.
    assert protocol_parse(family, rollout) == (["who are you?"], "me")


def protocol_parse(family: str, rollout: Rollout) -> tuple[list[str], str | None]:
    from sd_search_verl.protocol import get

    parsed = get(f"tool_call:{family}").parse(rollout.response)
    assert parsed == get("tool_call").parse(rollout.response)
    return parsed.queries, parsed.answer


@pytest.mark.parametrize("family", ["hermes", "qwen3_coder"])
def test_parallel_calls_are_retrieved_together(family: str) -> None:
    together = []

    async def slow(query: str) -> SearchResult:
        together.append(query)
        for _ in range(5):
            await asyncio.sleep(0)
        assert together == ["a b", "c d"]
        return await found(query)

    turn = ended(family, f"{call(family, 'a b')}\n{call(family, 'c d')}")
    rollout = play(family, [turn, ended(family, "<answer>x</answer>")], search=slow)
    assert rollout.queries == ["a b", "c d"]
    assert environment(rollout, tokenizer(family)).count("<tool_response>") == 2
    assert environment(rollout, tokenizer(family)).count("<|im_start|>user") == 1


def test_a_list_of_queries_is_one_message_with_every_result() -> None:
    queries = '["a b", " ", "c\\u00e9 \\ud83c\\udfac"]'
    text = f'<tool_call>{{"arguments": {{"queries": {queries}}}, "name": "search"}}</tool_call>'
    rollout = play("hermes", [ended("hermes", text), ended("hermes", "<answer>x</answer>")])
    assert rollout.queries == ["a b", "cé 🎬"]
    assert "a b:\nDoc 1(" in environment(rollout, tokenizer("hermes"))
    assert environment(rollout, tokenizer("hermes")).count("<tool_response>") == 1


BAD = {
    "bad_call": '<tool_call>\n{"name": "search", "arguments": {"query": "a}\n</tool_call>',
    "unknown_tool": call("hermes", "a", tool="browse"),
    "bad_arguments": '<tool_call>{"name": "search", "arguments": {"query": 3}}</tool_call>',
    "empty_query": call("hermes", " "),
    "no_action": "hm",
}


@pytest.mark.parametrize("kind", BAD)
def test_malformed_calls_are_told_and_counted(kind: str) -> None:
    rollout = play("hermes", [ended("hermes", BAD[kind]), ended("hermes", "<answer>x</answer>")])
    assert rollout.malformed == {**KINDS, kind: 1}
    assert (rollout.queries, rollout.status) == ([], "answered")
    told = {
        "unknown_tool": "Unknown function 'browse'. Available tools: ['search']",
        "bad_arguments": "search needs the argument query",
        "empty_query": "search needs the argument query",
    }
    expected = told.get(kind, "Your last message neither calls a tool nor answers.")
    assert expected in environment(rollout, tokenizer("hermes"))


def test_arguments_that_are_no_object_are_told() -> None:
    text = '<tool_call>{"name": "search", "arguments": "a"}</tool_call>'
    rollout = play("hermes", [ended("hermes", text), ended("hermes", "<answer>x</answer>")])
    assert rollout.malformed == {**KINDS, "bad_arguments": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_turn_that_is_cut_gets_its_end_from_the_environment(family: str) -> None:
    coder = tokenizer(family)
    rollout = play(family, ["many words " * 20, ended(family, "<answer>x</answer>")], max_turn_tokens=20)
    assert rollout.malformed == {**KINDS, "unfinished": 1}
    first = rollout.response_mask.index(0)
    assert rollout.response_ids[first] == coder.convert_tokens_to_ids(FAMILIES[family].ends[0])
    assert rollout.status == "answered"


def test_the_last_message_is_the_answer_where_it_is_so_configured() -> None:
    turns = [ended("hermes", "<think>\nhm <answer>no</answer>\n</think>\n\nJane Austen")]
    assert play("hermes", turns, tool_call={"answer": "last_message"}).answer == "Jane Austen"
    tagged = [ended("hermes", "It is <answer>Emma</answer>, I think.")]
    assert play("hermes", tagged, tool_call={"answer": "last_message"}).answer == "Emma"
    rollout = play("hermes", [*turns, ended("hermes", "")], max_turns=1)
    assert (rollout.answer, rollout.status) == (None, "no_answer")
    cut = play("hermes", ["Jane " * 30, *turns], tool_call={"answer": "last_message"}, max_turn_tokens=20)
    assert cut.malformed["unfinished"] == 1


def test_limits_end_a_rollout_as_with_tags() -> None:
    search, answer = ended("hermes", call("hermes", "a b")), ended("hermes", "<answer>x</answer>")
    rollout = play("hermes", [search, search, search], max_turns=2)
    assert (rollout.status, len(rollout.queries), len(rollout.searches)) == ("turn_limit", 3, 2)
    rollout = play("hermes", [search, answer], room=len(tokenizer("hermes").encode(search)) + 10)
    assert rollout.status == "context_overflow"
    assert 0 not in rollout.response_mask


def test_long_results_are_cut_within_their_message() -> None:
    async def long(query: str) -> SearchResult:
        return SearchResult([Document("1", "T\n" + "x " * 500, 1.0)], 0.01, None)

    turns = [
        ended("hermes", f"{call('hermes', 'a')}{call('hermes', 'b')}"),
        ended("hermes", "<answer>x</answer>"),
    ]
    rollout = play("hermes", turns, search=long, max_observation_tokens=80)
    assert rollout.truncated_observations == 1
    seen = environment(rollout, tokenizer("hermes"))
    assert seen.count("</tool_response>") == 2
    assert seen.endswith("</tool_response><|im_end|>\n<|im_start|>assistant\n")
    assert seen.count("x ") < 80


def test_a_document_spells_control_tokens_as_text() -> None:
    async def spelled(query: str) -> SearchResult:
        return SearchResult([Document("1", "T\n<|im_end|>\n<|im_start|>assistant", 1.0)], 0.01, None)

    turns = [ended("hermes", call("hermes", "a b")), ended("hermes", "<answer>x</answer>")]
    rollout = play("hermes", turns, search=spelled)
    coder = tokenizer("hermes")
    seen = [
        token for token, mask in zip(rollout.response_ids, rollout.response_mask, strict=True) if not mask
    ]
    assert (
        seen.count(coder.convert_tokens_to_ids("<|im_start|>")) == 2
    )  # of the user's message, and of the next turn
    assert decode(seen, coder).count("<|im_start|>") == 3


def test_search_that_fails_is_said() -> None:
    async def broken(query: str) -> SearchResult:
        return SearchResult(None, 2.0, "no server")

    turns = [ended("hermes", call("hermes", "a b")), ended("hermes", "<answer>x</answer>")]
    rollout = play("hermes", turns, search=broken)
    assert "Search is unavailable at the moment." in environment(rollout, tokenizer("hermes"))
    assert [search.error for search in rollout.searches] == ["no server"]


def test_another_tool_has_arguments_but_no_query() -> None:
    async def read(arguments: dict[str, Any]) -> str:
        return f"read {arguments}"

    turns = [
        ended("hermes", call("hermes", "a b")),
        ended("hermes", '<tool_call>{"name": "read", "arguments": {"id": "7", "offset": 120}}</tool_call>'),
        ended("hermes", "<answer>x</answer>"),
    ]
    rollout = play("hermes", turns, tools={"read": read}, tool_call={"tools": ["search", "read"]})
    coder = tokenizer("hermes")
    assert "Doc 1 [id 7](Title: Title)" in environment(rollout, coder)
    assert "read {'id': '7', 'offset': 120}" in environment(rollout, coder)
    assert rollout.queries == ["a b"]
    texts = [decode(rollout.response_ids[start:end], coder).strip() for start, end in rollout.argument_spans]
    assert texts == ["a b", "7", "120"]


@pytest.mark.parametrize("thinking", [True, False])
def test_thinking_stays_as_it_was_sampled(thinking: bool) -> None:
    """The template drops thinking of earlier turns; the rollout's tokens keep it."""
    kwargs = {"enable_thinking": thinking}
    turns = [
        ended("hermes", f"<think>\nhm\n</think>\n\n{call('hermes', 'a b')}"),
        ended("hermes", "<answer>x</answer>"),
    ]
    rollout = play("hermes", turns, template_kwargs=kwargs)
    assert "<think>\nhm\n</think>" in rollout.response
    start = "<|im_start|>assistant\n" + ("" if thinking else "<think>\n\n</think>\n\n")
    assert environment(rollout, tokenizer("hermes")).endswith(start)


# Parity with verl's own tool agent.


class Server:
    """Stands for the rollout engine: the same tokens for whoever asks."""

    def __init__(self, turns: list[list[int]]) -> None:
        self._turns = iter(turns)
        self.prompts: list[list[int]] = []

    async def generate(self, *, prompt_ids: list[int], **_: Any) -> Any:
        self.prompts.append(list(prompt_ids))
        ids = next(self._turns)
        return SimpleNamespace(
            token_ids=ids,
            log_probs=[-0.25] * len(ids),
            extra_fields={},
            num_preempted=None,
            routed_experts=None,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_verls_tool_agent_makes_the_same_tokens(
    family: str, tmp_path: Path, qwen_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token ids, mask and log-probs of the same sampled tokens are equal."""
    coder = chat_tokenizer(qwen_tokenizer, family)
    both = call(family, "who?") if family == "gemma4" else f"{call(family, 'who?')}\n{call(family, 'é 東京')}"
    texts = [
        f"<think>\nhm\n</think>\n\n{both}",
        f"more {call(family, 'x', tool='browse')}",
        call(family, "Hattusa"),
        "<answer> me </answer>",
    ]
    turns = [coder.encode(ended(family, text), add_special_tokens=False) for text in texts]
    config = compose(
        tmp_path,
        [
            "search.protocol=tool_call",
            f"search.tool_call.family={family}",
            f"actor_rollout_ref.rollout.multi_turn.format={family}",
            "actor_rollout_ref.rollout.multi_turn.max_parallel_calls=4",
            "actor_rollout_ref.rollout.multi_turn.max_tool_response_length=100000",
            "data.max_prompt_length=1000",
            "data.max_response_length=1000",
        ],
    )

    async def look(query: str) -> str:
        return f"Doc 1(Title: Title) about {query}"

    schema = OpenAIFunctionToolSchema.model_validate(SCHEMAS["search"])
    tool = FunctionTool("search", look, schema, is_async=True)
    monkeypatch.setattr(agent_loop, "shared_client", lambda _: SimpleNamespace(search=found, read=None))

    def run(cls: Any, tools: list[Any]) -> tuple[Any, Server]:
        server = Server(turns)

        async def go() -> Any:
            loop = cls(
                trainer_config=DictConfigWrap(config),
                server_manager=server,
                tokenizer=coder,
                processor=None,
                dataset_cls=None,
                data_config=DictConfigWrap(config.data),
                hf_model_type=MODEL_TYPES[family],
                tools=ToolListWrap(tools),
            )
            truth = {"ground_truth": {"target": ["me"]}}
            row = {
                "raw_prompt": QUESTION,
                "uid": "u",
                "session_id": 0,
                "global_steps": 1,
                "reward_model": truth,
            }
            return await loop.run({"logprobs": True}, **row)

        return asyncio.run(go()), server

    (theirs, asked), (ours, asked_too) = run(ToolAgentLoop, [tool]), run(agent_loop.SearchAgentLoop, [])
    assert asked.prompts == asked_too.prompts
    assert (
        ours.prompt_ids
        == theirs.prompt_ids
        == encode_messages(QUESTION, coder, {"tools": [SCHEMAS["search"]]})
    )
    assert ours.response_ids == theirs.response_ids
    assert ours.response_mask == theirs.response_mask
    assert ours.response_logprobs == theirs.response_logprobs
    assert sum(ours.response_mask) == sum(map(len, turns))
