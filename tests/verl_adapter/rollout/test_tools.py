"""Tools of verl's registry beside ``search``: executed in the loop, and not distilled."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.agent_loops import run_agent_loop
from support.chat_templates import chat_tokenizer
from support.engine import compose
from support.tokenizer_families import family as tokenizer_of
from support.tool_calls import call
from support.tool_rollouts import QUESTION, ended, found
from verl.tools import function_tool

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.errors import UserError
from sd_search_verl.hindsight.teacher_inputs import build_teacher_inputs
from sd_search_verl.protocol.families import FAMILIES
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.rollout.record import ROLLOUT_KEY, from_plain
from sd_search_verl.verl_adapter.rollout import agent_loop
from sd_search_verl.verl_adapter.rollout.tools import load_tools, prompt_kwargs

FUNCTIONS = '''
from verl.tools.function_tool import function_tool

@function_tool
def add(numbers: str) -> str:
    """Add numbers.

    Args:
        numbers: integers with + between them.
    """
    return f"the sum is {sum(map(int, numbers.split('+')))}"
'''
CLASSES = """
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import ToolResponse

class Letters(BaseTool):
    async def execute(self, instance_id, parameters, **_):
        return ToolResponse(text=f"{len(parameters['word'])} letters"), 0.0, {}
"""
WORD = {"type": "string", "description": "A word."}
LETTERS = {
    "class_name": "letters_of_a_test.Letters",
    "config": {"type": "native"},
    "tool_schema": {
        "type": "function",
        "function": {
            "name": "letters",
            "description": "Count letters.",
            "parameters": {"type": "object", "properties": {"word": WORD}, "required": ["word"]},
        },
    },
}


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """verl's registry of functions is one a process, and takes a name once."""
    monkeypatch.setattr(function_tool, "FUNCTION_TOOL_REGISTRY", {})


def with_tools(folder: Path, family: str, *overrides: str) -> Any:
    """A config that names a function and a class as verl's tools."""
    (folder / "functions.py").write_text(FUNCTIONS)
    (folder / "letters_of_a_test.py").write_text(CLASSES)
    (folder / "tools.json").write_text(json.dumps({"tools": [LETTERS]}))
    paths = {"function_tool_path": "functions.py", "tool_config_path": "tools.json"}
    options = [f"actor_rollout_ref.rollout.multi_turn.{key}={folder / name}" for key, name in paths.items()]
    search = ["search.protocol=tool_call", f"search.tool_call.family={family}"]
    room = ["data.max_prompt_length=4000", "data.max_response_length=4000"]
    return compose(folder, [*options, *search, *room, *overrides])


@pytest.mark.parametrize("family", FAMILIES)
def test_verls_own_tools_are_executed_and_only_the_query_is_distilled(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(agent_loop, "shared_client", lambda _: SimpleNamespace(search=found, tools={}))
    config, coder = with_tools(tmp_path, family), chat_tokenizer(tokenizer_of("llama-3"), family)
    texts = [
        call(family, "20+22", tool="add", argument="numbers"),
        call(family, "who are you?"),
        call(family, "Hattusa", tool="letters", argument="word"),
        "<answer> me </answer>",
    ]
    turns = [coder.encode(ended(family, text), add_special_tokens=False) for text in texts]
    output, server = run_agent_loop(
        agent_loop.SearchAgentLoop, config, coder, family, turns, load_tools(config)
    )
    shown = decode(server.prompts[0], coder)
    assert all(name in shown for name in ("search", "add", "letters"))
    rollout = from_plain(
        output.extra_fields[ROLLOUT_KEY],
        QUESTION,
        output.prompt_ids,
        output.response_ids,
        output.response_mask,
    )
    assert (rollout.queries, rollout.answer, rollout.em) == (["who are you?"], "me", 1.0)
    assert not any(rollout.malformed.values())
    seen = [t for t, mask in zip(output.response_ids, output.response_mask, strict=True) if not mask]
    told = decode(seen, coder)
    assert told.index("the sum is 42") < told.index("about who are you?") < told.index("7 letters")

    def encode(messages: Any) -> list[int]:
        return encode_messages(messages, coder, prompt_kwargs(config))

    def scored(**changes: Any) -> list[str]:
        (inputs,) = build_teacher_inputs([rollout], SDSearchConfig(**changes), coder, encode, seed=0)
        whole = output.prompt_ids + output.response_ids
        return [decode([whole[p + 1]], coder) for row in inputs.rows for p in row.student_positions]

    query = "".join(scored())
    assert query.strip() in "who are you?"
    assert "are" in query
    everything = "".join(scored(positions="tool_arguments"))
    assert "Hattusa"[1:-1] in everything
    assert "20+22"[1:-1] in everything


def test_a_tool_of_verls_registry_may_not_take_the_name_of_ours(tmp_path: Path) -> None:
    config = with_tools(tmp_path, "hermes")
    (tmp_path / "functions.py").write_text(FUNCTIONS.replace("def add(", "def search("))
    with pytest.raises(UserError, match="defines the tool 'search', which is the retrieval server's"):
        prompt_kwargs(config)
