"""Tools of verl's registry beside the retrieval server's: their schemas in the prompt, and their calls.

``actor_rollout_ref.rollout.multi_turn.{tool_config_path,function_tool_path}`` name them, as for verl's own tool agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.tools.function_tool import FunctionTool, normalize_function_tool_return
from verl.tools.tool_registry import load_all_tools

from sd_search_verl.config import SearchConfig
from sd_search_verl.errors import UserError
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.protocol.tool_call import ToolCallProtocol
from sd_search_verl.protocol.tools import SCHEMAS, Tool
from sd_search_verl.rollout.dialogue import protocol_of
from sd_search_verl.verl_adapter.settings import read_search


def load_tools(config: DictConfig) -> list[Any]:
    """Return verl's tools of a whole config; none unless the protocol is that of tool calls."""
    options = config.actor_rollout_ref.rollout.multi_turn
    paths = [options.get("tool_config_path"), options.get("function_tool_path")]
    return load_all_tools(*paths) if config.search.protocol == "tool_call" and any(paths) else []


def run_protocol(search: SearchConfig, tools: Sequence[Any]) -> Protocol:
    """Return the protocol of a run, with verl's tools beside the retrieval server's.

    Raises:
        UserError: one of verl's tools has the name of one of ours.
    """
    protocol = protocol_of(search)
    if not isinstance(protocol, ToolCallProtocol):
        return protocol
    if taken := [tool.name for tool in tools if tool.name in SCHEMAS]:
        raise UserError(
            f"actor_rollout_ref.rollout.multi_turn defines the tool {taken[0]!r}, which is the retrieval server's. "
            "Fix: give it another name"
        )
    schemas = [tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in tools]
    return replace(protocol, tools=(*protocol.tools, *schemas))


def template_kwargs(data: Any, protocol: Protocol) -> dict[str, Any]:
    """Return the further arguments of the chat template: those of verl's section ``data``, and the protocol's."""
    given: Any = OmegaConf.to_container(OmegaConf.create(data.get("apply_chat_template_kwargs") or {}))
    return {**given, **protocol.template_kwargs}


def prompt_kwargs(config: DictConfig) -> dict[str, Any]:
    """Return :func:`template_kwargs` of a whole config."""
    return template_kwargs(config.data, run_protocol(read_search(config), load_tools(config)))


def callable_tools(tools: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Tool]:
    """Return verl's tools by name as functions of their arguments.

    Args:
        tools: as verl loads them.
        options: the data row's ``tools_kwargs``, by tool.
    """
    return {tool.name: _tool(tool, (options.get(tool.name) or {}).get("create_kwargs", {})) for tool in tools}


def _tool(tool: Any, create_kwargs: Mapping[str, Any]) -> Tool:
    async def call(arguments: dict[str, Any]) -> str:
        try:
            if isinstance(tool, FunctionTool):
                response, *_ = normalize_function_tool_return(await tool.call(arguments))
                return response.text or ""
            instance, _ = await tool.create(create_kwargs=create_kwargs)
            try:
                response, *_ = await tool.execute(instance, arguments)
            finally:
                await tool.release(instance)
            return response.text or ""
        except Exception as error:
            return f"Error executing tool '{tool.name}': {error}"

    return call
