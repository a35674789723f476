"""A reward function as users write them by mistake: it raises for some answers and gives NaN for others."""

from __future__ import annotations

import math
from typing import Any

from sd_search_verl import scoring


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any]
) -> dict[str, Any]:
    """Raises in step 1 for about a third of the rollouts; NaN in step 3 for about half of them."""
    step, length = extra_info["min_global_steps"] + 1, len(solution_str)
    if step == 1 and length % 3 == 0:
        raise KeyError("the reward function knows no such answer")
    scores = scoring.compute_score(data_source, solution_str, ground_truth, extra_info)
    return {**scores, "score": math.nan} if step == 3 and length % 2 else scores
