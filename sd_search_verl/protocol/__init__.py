"""The format of a trajectory: prompt, turns of the policy, observations, and query token spans.

``get("search_r1")`` returns the protocol of https://arxiv.org/abs/2503.09516, ``get("autorefine")`` that of
https://arxiv.org/abs/2505.11277: tags in plain text, with those projects' own prompts and observation texts, because
released models have learned exactly these. ``get("tool_call:hermes")`` is the chat template's own tool calling, by the
family of the model; ``get("tool_call")`` reads calls of every family.
"""

from __future__ import annotations

from typing import Literal, overload

from sd_search_verl.errors import UserError
from sd_search_verl.protocol.autorefine import AUTOREFINE
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.protocol.families import FAMILIES
from sd_search_verl.protocol.search_r1 import SEARCH_R1
from sd_search_verl.protocol.tags import TagProtocol
from sd_search_verl.protocol.tool_call import ToolCallProtocol

__all__ = ["Protocol", "detect", "explained_instead", "get", "names", "tool_call"]

_TAGS: dict[str, Protocol] = {protocol.name: protocol for protocol in (SEARCH_R1, AUTOREFINE)}
_ANY_CALL = "tool_call"


@overload
def get(name: Literal["search_r1", "autorefine"]) -> TagProtocol: ...
@overload
def get(name: str) -> Protocol: ...
def get(name: str) -> Protocol:
    """Return the protocol called ``name``.

    Raises:
        UserError: no protocol has that name.
    """
    kind, _, family = name.partition(":")
    if name in _TAGS:
        return _TAGS[name]
    if name == _ANY_CALL:
        return ToolCallProtocol(_ANY_CALL, tuple(FAMILIES.values()))
    if kind == _ANY_CALL and family in FAMILIES:
        return tool_call(family)
    known = [*names(), *(f"{_ANY_CALL}:{family}" for family in FAMILIES)]
    raise UserError(f"protocol {name!r} is unknown; choose one of {', '.join(sorted(known))}")


def tool_call(family: str) -> ToolCallProtocol:
    """Return the protocol of a family of tool calls."""
    return ToolCallProtocol(f"tool_call:{family}", (FAMILIES[family],))


def names() -> tuple[str, ...]:
    """Return the names of all protocols; that of tool calls stands for its families."""
    return (*_TAGS, _ANY_CALL)


def explained_instead(prompt: str, ours: str) -> str | None:
    """Return the name of a protocol that a prompt tells the policy of, where it tells nothing of ours."""
    told = [name for name in names() if get(name).explained_in(prompt)]
    return told[0] if told and ours.partition(":")[0] not in told else None


def detect(text: str) -> Protocol:
    """Return the protocol of a text: by its prompt if it has one, else by its observation tags, else search_r1."""
    protocols = [get(name) for name in names()]
    by_prompt = [protocol for protocol in protocols if protocol.instructions in text]
    by_tags = [protocol for protocol in protocols if protocol.is_of(text)]
    return next(iter(by_prompt or by_tags), SEARCH_R1)
