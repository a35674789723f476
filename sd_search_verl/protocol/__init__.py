"""What a trajectory looks like: tags, prompt, observation text, parsing, and query token spans.

``get("search_r1")`` returns the protocol of https://arxiv.org/abs/2503.09516, ``get("autorefine")`` that of
https://arxiv.org/abs/2505.11277. The prompts and observation texts are those projects' own, because released models
have learned exactly these.
"""

from __future__ import annotations

from sd_search_verl.errors import UserError
from sd_search_verl.protocol.autorefine import AUTOREFINE
from sd_search_verl.protocol.base import ParsedTrajectory, Protocol
from sd_search_verl.protocol.search_r1 import SEARCH_R1

__all__ = ["ParsedTrajectory", "Protocol", "detect", "get"]

_PROTOCOLS = {protocol.name: protocol for protocol in (SEARCH_R1, AUTOREFINE)}


def get(name: str) -> Protocol:
    """The protocol called ``name``.

    Raises:
        UserError: there is none of that name.
    """
    try:
        return _PROTOCOLS[name]
    except KeyError:
        raise UserError(
            f"protocol {name!r} is unknown; choose one of {', '.join(sorted(_PROTOCOLS))}"
        ) from None


def detect(response: str) -> Protocol:
    """The protocol whose observation tags a response has; Search-R1's where it has none."""
    spoken = (protocol for protocol in _PROTOCOLS.values() if protocol.observation_close in response)
    return next(spoken, SEARCH_R1)
