"""Information gain in a mini-batch: its fields, its forward without gradient, its advantages.

    field              content of a trajectory's row
    sd_gain_ids        token ids of its rows, one after the other
    sd_gain_lengths    number of tokens of each row
    sd_gain_positions  index into sd_gain_ids of the logits of each token of the gold answer
    sd_gain_spans      first and last + 1 response token of each query

A trajectory without searches has placeholders of length one, -1.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.objectives.information_gain import GainInputs, gains
from sd_search_verl.verl_adapter.actor.teacher_pass import run_teacher_pass
from sd_search_verl.verl_adapter.fields import TeacherMiniBatch, nested, pack_rows

ROWS = ("sd_gain_ids", "sd_gain_lengths", "sd_gain_positions")
SPANS = "sd_gain_spans"


def pack_gain(inputs: GainInputs) -> dict[str, Tensor]:
    """Return one trajectory's row of every field."""
    ends = [end for span in inputs.spans for end in span]
    rows = list(zip(inputs.rows, inputs.positions, strict=True))
    return {**pack_rows(ROWS, rows), SPANS: torch.tensor(ends or [-1])}


def add_information_gain(
    engine: Any, data: TensorDict, settings: dict[str, Any], group: Any, config: SDSearchConfig
) -> TensorDict:
    """Return the mini-batch with larger advantages at query tokens, without these fields; every rank must call it.

    Args:
        engine: verl's FSDP engine, in train mode; left in train mode.
        settings: as in :func:`~.teacher_pass.run_teacher_pass`.
        group: data-parallel process group.
    """
    batch = TeacherMiniBatch([], [], [], *torch.zeros(3, 0))  # the teacher pass reads rows and positions only
    for rows in zip(*(data[name].cpu().unbind() for name in ROWS), strict=True):
        batch.add_rows(*rows)
    # Little to store: only the gold token counts.
    one = config.replace(top_k=1, support="teacher", tail="bucket")
    targets = run_teacher_pass(engine, batch, settings, group, one)
    assert targets.token_log_prob is not None
    found = targets.token_log_prob.cpu().split([len(at) for at in batch.positions])
    amounts = iter(gains([values.tolist() for values in found]))
    changed = [row.clone() for row in data["advantages"].unbind()]
    for advantages, spans in zip(changed, data[SPANS].cpu().unbind(), strict=True):
        for first, end in spans[spans >= 0].view(-1, 2).tolist():
            advantages[first:end] += config.information_gain * next(amounts) / (end - first)
    data = data.exclude(*ROWS, SPANS)
    data["advantages"] = nested(changed)
    return data
