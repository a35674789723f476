"""The hindsight block and the teacher's rows: from a finished group of rollouts to what the teacher reads."""

from sd_search_verl.hindsight.block import RolloutSummary, fit_block, place_block, render_block
from sd_search_verl.hindsight.outcome import is_correct, shuffled_labels

__all__ = ["RolloutSummary", "fit_block", "is_correct", "place_block", "render_block", "shuffled_labels"]
