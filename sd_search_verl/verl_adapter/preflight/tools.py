"""Tool calls: a family that verl parses, a chat template that shows the tools, and tool messages that it can encode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from sd_search_verl.errors import UserError, on_one_line
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.protocol.prompt import render_messages
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.protocol.tool_call import ToolCallProtocol
from sd_search_verl.rollout.dialogue import Request, SampledTurn
from sd_search_verl.rollout.types import Prompt
from sd_search_verl.verl_adapter.rollout.tool_dialogue import ToolDialogue
from sd_search_verl.verl_adapter.rollout.tools import load_tools, run_protocol, template_kwargs
from sd_search_verl.verl_adapter.settings import read_search

OTHER_FAMILY = Rule(
    "search.tool_call.family",
    "tool calls cannot be used with this policy: {error}",
    "set search.tool_call to what the model's chat template teaches, or search.protocol to one of tags",
)
NO_TOOLS = Rule(
    "chat template",
    "the chat template does not show the tool {tool} to the policy",
    "use a model whose chat template has tools, or set actor_rollout_ref.model.custom_chat_template",
)
NO_RESULTS = Rule(
    "chat template",
    "the chat template cannot show a tool's result between two turns: {error}",
    "use a model whose chat template has tool messages, or set actor_rollout_ref.model.custom_chat_template",
)
NO_END = Rule(
    "tokenizer",
    "the tokenizer has no token that ends a turn of family {family}: neither {ends} nor an EOS token",
    "use the tokenizer of the chat model, or another search.tool_call.family",
)
THINKS = Rule(
    "search.tool_call.parallel",
    "the policy thinks before it acts, and a {stops} in its thinking ends the turn",
    "set search.tool_call.parallel=true, or ++data.apply_chat_template_kwargs.enable_thinking=false",
    warns=True,
)

_RESULT = "Doc 1(Title: Emma) a novel"


def check_tools(config: DictConfig, tokenizer: Any, model_type: str) -> Iterator[Finding]:
    """Check the protocol of tool calls on one call and its result; findings are failures and warnings only."""
    try:
        search = read_search(config)
        protocol = run_protocol(search, load_tools(config))
        if not isinstance(protocol, ToolCallProtocol):
            return
        kwargs = template_kwargs(config.data, protocol)
        dialogue = ToolDialogue(tokenizer, protocol, model_type, kwargs, search.max_observation_tokens, {})
    except UserError as error:
        yield OTHER_FAMILY.finding(error=on_one_line(error))
        return
    if not protocol.end_ids(tokenizer):
        yield NO_END.finding(family=search.tool_call.family, ends=", ".join(protocol.ends))
        return
    messages = protocol.prompt("who wrote Emma")
    try:
        shown = render_messages(messages, tokenizer, kwargs)
        names = [tool["function"]["name"] for tool in protocol.tools]
        if missing := [name for name in names if name not in shown.replace(messages[0]["content"], "")]:
            yield NO_TOOLS.finding(tool=missing[0])
        thinking_end = protocol.families[0].thinking_end
        thinks = thinking_end in str(tokenizer.chat_template) and not shown.rstrip().endswith(thinking_end)
        if thinks and protocol.stop:
            yield THINKS.finding(stops=" or ".join(protocol.stop))
        turn = SampledTurn("", (Request(names[0], {"query": "Emma"}),))
        end = protocol.end_ids(tokenizer)[:1]
        added = dialogue.observation(Prompt("", messages, []), turn, end, [_RESULT]).token_ids
        if _RESULT not in decode(added, tokenizer):
            yield NO_RESULTS.finding(error="the result is not in it")
    except Exception as error:
        yield NO_RESULTS.finding(error=on_one_line(error))
