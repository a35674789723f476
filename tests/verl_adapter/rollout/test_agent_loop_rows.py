"""A row that cannot be scored is named by its question set and index."""

from __future__ import annotations

from typing import Any

import pytest

from sd_search_verl.errors import UserError
from sd_search_verl.verl_adapter.rollout.agent_loop import _golden_answers


@pytest.mark.parametrize(
    "truth", [{"style": "rule"}, {"ground_truth": 1990}, {"ground_truth": {"targets": ["a"]}}, None]
)
def test_the_row_and_the_field_are_named(truth: Any) -> None:
    row = {"data_source": "nq", "index": 17, "reward_model": truth}
    with pytest.raises(
        UserError, match=r"data_source='nq', extra_info\.index=17 cannot be scored: reward_model"
    ):
        _golden_answers(row)
