"""Conditions of the probe: blocks that the same rollouts are read behind, each a change of the hindsight options."""

from __future__ import annotations

from typing import Any

from sd_search_verl.config import HindsightConfig

TRUE, FLIPPED, LEAVE_ONE_OUT, EMPTY = "true", "flipped", "leave_one_out", "empty"

CHANGES: dict[str, dict[str, Any]] = {
    TRUE: {},
    FLIPPED: {"labels": "flipped"},
    LEAVE_ONE_OUT: {"group": "leave_one_out", "own": "shown"},
    "shuffled": {"labels": "shuffled"},
    "no_labels": {"labels": "none", "layout": "lines", "instruction": False, "demonstration": False},
    "own": {"group": "own"},
    "other_question": {"group": "other_question", "own": "shown"},
}
"""Changes to the judged options."""

NEEDED = (TRUE, FLIPPED, LEAVE_ONE_OUT)
"""Those that the four numbers are computed from."""
_EMPTY = HindsightConfig(content="none")


def blocks(config: HindsightConfig, names: str) -> dict[str, HindsightConfig]:
    """Return the options of every condition, and of the empty block, which is the student's.

    ``names`` is ``all`` or ``needed``. Without a block there is nothing to change.
    """
    chosen = CHANGES if names == "all" else NEEDED
    if config.content == "none":
        return dict.fromkeys((*chosen, EMPTY), _EMPTY)
    return {name: config.replace(**CHANGES[name]) for name in chosen} | {EMPTY: _EMPTY}
