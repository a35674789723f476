"""A step of several updates has the metrics of all its rollouts, as one update on all of them would."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from support.engine import Row, recorded_rows, settings, teacher_inputs
from support.tiny import byte_tokenizer

from sd_search_verl.config import HindsightConfig
from sd_search_verl.verl_adapter.trainer.data_plane import StepRollouts
from sd_search_verl.verl_adapter.trainer.step_metrics import prepared_metrics, rollout_metrics
from sd_search_verl.verl_adapter.trainer.updates import Update, pooled

TOKENIZER = byte_tokenizer()
METRICS = partial(rollout_metrics, group_size=4, groups=4, config=HindsightConfig(), version=6)


def step_of(rows: list[Row]) -> StepRollouts:
    log_probs = [torch.tensor(row.old_log_probs) for row in rows]
    return StepRollouts(list(range(len(rows))), [row.rollout for row in rows], [0.0] * len(rows), log_probs)


def update_of(rows: list[Row], jsd: float, skipped: float) -> Update:
    inputs = teacher_inputs(rows, settings(), TOKENIZER)
    step = step_of(rows)
    found = {**METRICS(step), **prepared_metrics(inputs)}
    return Update(step, inputs, found | {"sd_search/jsd": jsd, "health/skipped_updates": skipped})


def test_counts_rates_and_percentiles_are_those_of_all_rollouts() -> None:
    rows = recorded_rows(TOKENIZER)
    for place, row in enumerate(rows):
        for search in row.rollout.searches:
            object.__setattr__(search, "latency_s", 0.1 * (place + 1) ** 2)
    first, second = update_of(rows[:4], 0.2, 1.0), update_of(rows[4:], 0.4, 0.0)
    found = pooled([first, second], METRICS)
    whole = update_of(rows, 0.0, 0.0)
    for name, value in {**METRICS(whole.step), **prepared_metrics(whole.inputs or [])}.items():
        assert found[name] == pytest.approx(value), name
    tokens = [update.metrics["sd_search/query_tokens"] for update in (first, second)]
    assert tokens[0] != tokens[1]
    assert found["sd_search/jsd"] == pytest.approx((0.2 * tokens[0] + 0.4 * tokens[1]) / sum(tokens))
    assert found["health/skipped_updates"] == 1


def test_updates_without_a_teacher_have_the_metrics_of_their_rollouts() -> None:
    rows = recorded_rows(TOKENIZER)
    updates = [Update(step_of(part), None, {}) for part in (rows[:8], rows[8:])]
    found = pooled(updates, METRICS)
    assert found == {**METRICS(step_of(rows)), "health/skipped_updates": 0.0}
