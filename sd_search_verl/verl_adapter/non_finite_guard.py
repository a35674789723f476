"""Stopping a step whose loss is NaN or infinite, with its batch on disk.

The workers have finished the update when this is known, and verl leaves out an update with such a gradient. So nobody
waits for anybody, the weights are those of before the step, and the last checkpoint is sound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sd_search_verl.health.finite import NonFiniteError, non_finite_losses, non_finite_rows
from sd_search_verl.verl_adapter import data_plane


def stop_on_non_finite(
    folder: Path, number: int, step: data_plane.StepRollouts, batch: Any, metrics: Mapping[str, Any]
) -> None:
    """Save the batch and raise, if a loss of step ``number`` is not finite.

    Raises:
        NonFiniteError: with the metrics, the rollouts that hold such values before the update, and the file.
    """
    losses = non_finite_losses(metrics)
    if not losses:
        return
    values = data_plane.read_values(batch, step.rows)
    rows = non_finite_rows(values)
    path = folder / f"non_finite_step_{number}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows or range(len(step.rows)):
            file.write(json.dumps(_line(step, row, rows.get(row, []), values)) + "\n")
    raise NonFiniteError(
        f"step {number}: {', '.join(f'{name}={metrics[name]}' for name in losses)}. {_where(step, rows)} "
        f"The batch is in {path}; the weights are those of before this step. Go on from the last checkpoint when the "
        "cause is removed (health.stop_on_non_finite=false trains on and leaves such updates out)"
    )


def _where(step: data_plane.StepRollouts, rows: Mapping[int, list[str]]) -> str:
    if not rows:
        return (
            f"Rewards, advantages and log-probs of all {len(step.rows)} rollouts are finite before the update, so the "
            "loss became so inside of it: look at the learning rate, the precision and sd_search.divergence."
        )
    first = min(rows)
    question = step.rollouts[first].prompt.messages[-1].get("content", "")
    fields = sorted({name for names in rows.values() for name in names})
    return (
        f"{len(rows)} of {len(step.rows)} rollouts hold such values before the update, in {', '.join(fields)} "
        f"({_HINTS[fields[-1]]}); the first is of group {step.rollouts[first].prompt.group}: {question[-200:]!r}."
    )


# By the field that comes last in the alphabet of those found; what it is computed from comes later in it.
_HINTS = {
    "advantages": "the advantage estimator",
    "old_log_probs": "the policy's weights or logits",
    "ref_log_prob": "the reference policy",
    "rm_scores": "the reward function",
    "rollout_log_probs": "the rollout engine",
}


def _line(
    step: data_plane.StepRollouts, row: int, found: list[str], values: Mapping[str, list[Tensor]]
) -> dict[str, Any]:
    rollout = step.rollouts[row]
    return {
        "row": step.rows[row],
        "group": rollout.prompt.group,
        "non_finite": found,
        "messages": rollout.prompt.messages,
        "response": rollout.response,
        "golden_answers": list(rollout.prompt.golden_answers),
        "prompt_ids": rollout.prompt.token_ids,
        "response_ids": rollout.response_ids,
        "response_mask": rollout.response_mask,
        **{name: rows[row].tolist() for name, rows in values.items()},
    }
