"""Metrics of a step that updates the policy several times, on rollouts of its own each time (verl's separate mode).

verl reduces the metrics of the updates by their names, mostly to a mean weighted by rollouts. That is not what a count
of the step, a percentile, or a mean over searches or scored tokens is; these are computed anew, over all updates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from sd_search_verl.hindsight.teacher_inputs import TeacherInputs
from sd_search_verl.verl_adapter.actor.loss import TOKEN_MEANS
from sd_search_verl.verl_adapter.trainer.data_plane import StepRollouts
from sd_search_verl.verl_adapter.trainer.step_metrics import prepared_metrics

_TOKENS, _SKIPPED = "sd_search/query_tokens", "health/skipped_updates"


@dataclass(frozen=True)
class Update:
    """One update of a step: its rollouts, what the teacher read (None without a teacher), and its metrics."""

    step: StepRollouts
    inputs: Sequence[TeacherInputs] | None
    metrics: Mapping[str, float]


def pooled(
    updates: Sequence[Update], of_rollouts: Callable[[StepRollouts], dict[str, float]]
) -> dict[str, float]:
    """Return the metrics of a step that verl's reduction by rollouts would falsify.

    Args:
        of_rollouts: metrics of a step's rollouts.
    """
    inputs = [update.inputs for update in updates if update.inputs is not None]
    return {
        **of_rollouts(_all_rollouts(updates)),
        **(prepared_metrics([*chain.from_iterable(inputs)]) if inputs else {}),
        **_of_workers([update.metrics for update in updates]),
    }


def _all_rollouts(updates: Sequence[Update]) -> StepRollouts:
    """Return the rollouts of all updates; rows are those of each update's own batch."""
    steps = [update.step for update in updates]
    return StepRollouts(
        [row for step in steps for row in step.rows],
        [rollout for step in steps for rollout in step.rollouts],
        [reward for step in steps for reward in step.rewards],
        [log_probs for step in steps for log_probs in step.log_probs],
    )


def _of_workers(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means over all scored tokens, and a count."""
    found = {_SKIPPED: sum(one.get(_SKIPPED, 0.0) for one in metrics)}
    for name in TOKEN_MEANS:
        pairs = [(one[name], one[_TOKENS]) for one in metrics if name in one]
        if tokens := sum(count for _, count in pairs):
            found[name] = sum(mean * count for mean, count in pairs) / tokens
    return found
