"""Stop a run when a loss is NaN or infinite, and save the batch of that step.

The workers have finished the update by then, so no rank hangs. verl leaves out a mini-batch with such a gradient, not
the step's others, and no checkpoint of the step follows: the last one is sound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sd_search_verl.health.non_finite import NonFiniteError, non_finite_losses, non_finite_rows
from sd_search_verl.verl_adapter.trainer import data_plane


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
    values = data_plane.read_values(batch, step.rows, _SUSPECTS)
    rows = non_finite_rows(values)
    path = folder / f"non_finite_step_{number}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows or range(len(step.rows)):
            file.write(json.dumps(_line(step, row, rows.get(row, []), values)) + "\n")
    begun = (
        "At the first step the weights of the model folder themselves may hold such values. "
        if number == 1
        else ""
    )
    raise NonFiniteError(
        f"step {number}: {', '.join(f'{name}={metrics[name]}' for name in losses)}. {_where(step, rows)} "
        f"{begun}The batch is in {path}; no checkpoint holds this step. Resume from the last checkpoint when the "
        "cause is removed (health.stop_on_non_finite=false continues and skips such updates)"
    )


def _where(step: data_plane.StepRollouts, rows: Mapping[int, list[str]]) -> str:
    if not rows:
        return (
            f"Rewards, advantages and log-probs of all {len(step.rows)} rollouts are finite before the update, so the "
            "loss became so inside of it: check the learning rate, the precision and sd_search.divergence."
        )
    prompt = step.rollouts[min(rows)].prompt
    question = prompt.messages[-1].get("content", "")
    found = {name for names in rows.values() for name in names}
    fields = [name for name in _SUSPECTS if name in found]
    return (
        f"{len(rows)} of {len(step.rows)} rollouts hold such values before the update, in {', '.join(fields)} "
        f"({_SUSPECTS[fields[0]]}); the first is of group {prompt.group}: {question[-200:]!r}."
    )


_SUSPECTS = {
    "rollout_log_probs": "the rollout engine",
    "rm_scores": "the reward function",
    "ref_log_prob": "the reference policy",
    "old_log_probs": "the policy's weights or logits",
    "advantages": "the advantage estimator",
}
"""Suspect for each field of the batch, from cause to effect: the first field that is not finite names it."""


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
