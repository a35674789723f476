"""The hindsight block and the teacher's rows: from a finished group of rollouts to what the teacher reads."""

from sd_search_verl.hindsight.block import (
    RolloutSummary,
    insert_block,
    is_correct,
    render_block,
    render_block_within,
    shuffled_labels,
)

__all__ = [
    "RolloutSummary",
    "insert_block",
    "is_correct",
    "render_block",
    "render_block_within",
    "shuffled_labels",
]
