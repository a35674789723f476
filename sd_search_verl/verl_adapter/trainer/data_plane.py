"""verl's data plane (TransferQueue): read a step's rollouts, write the teacher's rows.

The only module that calls ``transfer_queue``, so that a change of verl's data plane stays in one file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import transfer_queue as tq
from torch import Tensor
from verl.utils import tensordict_utils as tu

from sd_search_verl.protocol.prompt import text_messages
from sd_search_verl.rollout.record import ROLLOUT_KEY, from_plain
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.verl_adapter.fields import nested

_FIELDS = [
    "prompts",
    "responses",
    "response_mask",
    "raw_prompt",
    "extra_fields",
    "rm_scores",
    "old_log_probs",
]


@dataclass(frozen=True)
class StepRollouts:
    """The rollouts of one step without padding rows, and their rows in the batch.

    Attributes:
        rows: row of each rollout in the batch.
        rewards: reward of each rollout.
        log_probs: of each rollout's response tokens, by the policy before the update.
    """

    rows: list[int]
    rollouts: list[Rollout]
    rewards: list[float]
    log_probs: list[Tensor]


def sort_rollouts(batch: Any, questions: Mapping[str, int]) -> None:
    """Sort a batch by question, and by the rollouts' places in their groups.

    verl keeps them in the order in which they finished, which no seed can reproduce.

    Args:
        questions: place of each question, by ``uid``.
    """
    batch.reorder(sorted(range(len(batch.keys)), key=lambda row: _place(batch.keys[row], questions)))


def _place(key: str, questions: Mapping[str, int]) -> tuple[int, str, int, int]:
    uid, session, index = key.rsplit("_", 2)
    # Questions restored from a checkpoint, and those of a batch that verl loads instead of rolling it out, have none.
    return questions.get(uid, sys.maxsize), uid, int(session), int(index)


def read_rollouts(batch: Any, questions: Mapping[str, int]) -> StepRollouts:
    """Fetch the finished rollouts of a batch, sorted like :func:`sort_rollouts`.

    Raises:
        RuntimeError: rollouts that were not made by our agent loop.
    """
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=_FIELDS)
    messages, extras = (_listed(data[name]) for name in ("raw_prompt", "extra_fields"))
    prompts, responses, masks, rewards, log_probs = (
        data[name].unbind()
        for name in ("prompts", "responses", "response_mask", "rm_scores", "old_log_probs")
    )
    step = StepRollouts([], [], [], [])
    # verl's filler rows carry copies of another rollout's record.
    real = [row for row, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
    for row in sorted(real, key=lambda row: _place(batch.keys[row], questions)):
        plain = extras[row].get(ROLLOUT_KEY)
        if plain is None:
            raise RuntimeError(
                "a rollout was not made by sd_search_agent; set actor_rollout_ref.rollout.agent."
                "default_agent_loop=sd_search_agent and remove the column agent_name from the data set"
            )
        step.rows.append(row)
        step.rewards.append(float(rewards[row].sum()))
        step.log_probs.append(log_probs[row].float())
        rollout = from_plain(
            plain,
            messages=text_messages(messages[row]),
            prompt_ids=prompts[row].tolist(),
            response_ids=responses[row].tolist(),
            response_mask=masks[row].tolist(),
        )
        rollout.reward = step.rewards[-1]
        step.rollouts.append(rollout)
    return step


def drop_trained() -> int:
    """Remove rollouts whose question is gone, and return how many.

    verl saves its buffer before it removes the rows it trained on; restored from a checkpoint they would stay forever.
    """
    items = (tq.kv_list("train") or {}).get("train", {})
    questions = {key for key, tag in items.items() if tag.get("is_prompt", False)}
    left = [key for key in items.keys() - questions if key.rsplit("_", 2)[0] not in questions]
    if left:
        tq.kv_clear(keys=left, partition_id="train")
    return len(left)


def read_values(batch: Any, rows: Sequence[int], names: Iterable[str]) -> dict[str, list[Tensor]]:
    """Return those of the fields that the batch has: one tensor ``[response tokens]`` for each of ``rows``."""
    known = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id)
    values = {name: known[name].unbind() for name in names if name in known}
    return {name: [field[row].float() for row in rows] for name, field in values.items()}


def write_fields(
    batch: Any, rows: Sequence[int], packed: Sequence[Mapping[str, Tensor]], blank: Mapping[str, Tensor]
) -> Any:
    """Write fields of the method (see ``fields.py``) and return the batch that lists them.

    Args:
        rows: row of each rollout in the batch.
        packed: fields of each rollout.
        blank: fields of verl's filler rows.
    """
    of_row = dict(zip(rows, packed, strict=True))
    every = [of_row.get(row, blank) for row in range(len(batch.keys))]
    fields = {name: nested([row[name] for row in every]) for name in blank}
    put = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=tu.get_tensordict(fields))
    # Workers receive only the fields listed in the meta; the one returned lists the new ones, but has no extra_info.
    put.extra_info.update(batch.extra_info)
    return put


def _listed(field: Any) -> list[Any]:
    return field.tolist() if hasattr(field, "tolist") else list(field)
