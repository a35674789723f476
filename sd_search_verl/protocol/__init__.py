"""The text format of a trajectory: tags, prompt, observation text, parsing, and query token spans.

``get("search_r1")`` returns the protocol of https://arxiv.org/abs/2503.09516, ``get("autorefine")`` that of
https://arxiv.org/abs/2505.11277. The prompts and observation texts are those projects' own, because released models
have learned exactly these.
"""

from __future__ import annotations

from sd_search_verl.errors import UserError
from sd_search_verl.protocol.autorefine import AUTOREFINE
from sd_search_verl.protocol.base import ParsedTrajectory, Protocol
from sd_search_verl.protocol.search_r1 import SEARCH_R1

__all__ = ["ParsedTrajectory", "Protocol", "detect", "get", "names"]

_PROTOCOLS = {protocol.name: protocol for protocol in (SEARCH_R1, AUTOREFINE)}


def get(name: str) -> Protocol:
    """Return the protocol called ``name``.

    Raises:
        UserError: no protocol has that name.
    """
    try:
        return _PROTOCOLS[name]
    except KeyError:
        raise UserError(f"protocol {name!r} is unknown; choose one of {', '.join(sorted(names()))}") from None


def names() -> tuple[str, ...]:
    """Return the names of all protocols."""
    return tuple(_PROTOCOLS)


def detect(text: str, default: Protocol = SEARCH_R1) -> Protocol:
    """Return the protocol of a text: by its prompt if it has one, else by its observation tags, else the default."""
    by_prompt = [protocol for protocol in _PROTOCOLS.values() if protocol.instructions in text]
    by_tags = [protocol for protocol in _PROTOCOLS.values() if protocol.observation_close in text]
    return next(iter(by_prompt or by_tags), default)
