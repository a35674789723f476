"""Conditions of the probe: blocks that the same rollouts are read behind, each a change of the hindsight options."""

from __future__ import annotations

from typing import Any

from sd_search_verl.config import HindsightConfig

TRUE, FLIPPED, LEAVE_ONE_OUT, EMPTY = "true", "flipped", "leave_one_out", "empty"

CHANGES: dict[str, dict[str, Any]] = {
    TRUE: {},
    FLIPPED: {"labels": "flipped"},
    LEAVE_ONE_OUT: {"group": "leave_one_out"},
    "shuffled": {"labels": "shuffled"},
    "no_labels": {"labels": "none"},
    "own": {"group": "own"},
    "other_question": {"group": "other_question"},
    EMPTY: {"content": "none"},
}
"""Changes to the judged options; ``empty`` is the student."""

NEEDED = (TRUE, FLIPPED, LEAVE_ONE_OUT, EMPTY)
"""Those that the four numbers are computed from."""


def blocks(config: HindsightConfig, names: str) -> dict[str, HindsightConfig]:
    """Return the options of every condition; ``names`` is ``all`` or ``needed``."""
    chosen = CHANGES if names == "all" else {name: CHANGES[name] for name in NEEDED}
    return {name: config.replace(**changes) for name, changes in chosen.items()}
