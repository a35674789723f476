"""``docs/protocols.md`` is true: the marked spans are the spans, and the family that it adds works."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from support.tokenizer_families import family as tokenizer_of
from verl.experimental.agent_loop.tool_parser import ToolParser

from sd_search_verl import protocol as protocols
from sd_search_verl.protocol.families import FAMILIES
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.protocol.tool_call import ToolCallProtocol

PAGE = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
NAMES = ["search_r1", "autorefine", "tool_call:hermes", "tool_call:qwen3_coder", "tool_call:gemma4"]


@pytest.mark.parametrize(("name", "shown"), [*zip(NAMES, SHOWN, strict=True)], ids=NAMES)
def test_the_marked_characters_are_the_query(name: str, shown: str) -> None:
    tokenizer, protocol = tokenizer_of("llama-3"), protocols.get(name)
    marked = "\n".join(line for line in shown.splitlines() if not line.startswith("│"))
    before, query, after = re.split("[⟦⟧]", marked)
    assert protocol.parse(before + query + after).queries == ['who wrote "Emma"']
    parts = [tokenizer.encode(part, add_special_tokens=False) for part in (before, query, after)]
    ids = [token for part in parts for token in part]
    ((start, end),) = query_spans(ids, tokenizer, protocol, [1] * len(ids))
    assert decode(ids[start:end], tokenizer) == query
    if "<answer>" in shown:
        last = shown.rpartition("│")[2].partition("\n")[2]
        assert protocol.parse(last).answer == "Jane Austen"


def test_a_family_is_added_in_thirty_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(code.splitlines()) <= 30
    monkeypatch.setattr("sd_search_verl.protocol.families.FAMILIES", dict(FAMILIES))
    space: dict[str, object] = {}
    exec(code, space)
    family = space["FAMILIES"]["glm"]  # type: ignore[index]
    protocol = ToolCallProtocol("tool_call:glm", (family,))
    text = (
        "<think>hm</think><tool_call>search\n<arg_key>query</arg_key>\n<arg_value>who, é?</arg_value>\n</tool_call>"
        "<tool_call>search<arg_key>top_k</arg_key><arg_value>3</arg_value><arg_key>query</arg_key>"
        "<arg_value>\nHattusa\n</arg_value></tool_call><tool_call>none</tool_call>"
        '<tool_call>search<arg_key>query</arg_key><arg_value>"who \\u0041"</arg_value></tool_call><|observation|>'
    )
    tokenizer = tokenizer_of("llama-3")
    ids = tokenizer.encode(text, add_special_tokens=False)
    parser = ToolParser.get_tool_parser("glm", tokenizer)
    _, calls = asyncio.run(parser.extract_tool_calls(ids, []))
    assert [call.tool for call in protocol.read(text).calls] == [call.name for call in calls]
    queries = [json.loads(call.arguments).get("query") for call in calls]
    assert protocol.parse(text).queries == [one for one in queries if one] == ["who, é?", "Hattusa", "who A"]
    assert len(query_spans(ids, tokenizer, protocol, [1] * len(ids))) == 3
