"""What the labels of the block do: the contrastive target, and two metrics of one mini-batch.

Definitions of the metrics are those of :mod:`sd_search_verl.probe.measures`; here they are means over the trajectories
and the tokens of a mini-batch on all ranks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sd_search_verl.distill.support import TeacherTargets
from sd_search_verl.verl_adapter.fields import TeacherMiniBatch


def contrast(true: TeacherTargets, flipped: TeacherTargets) -> TeacherTargets:
    """Return the teacher's targets with ``logits`` = log P_true - log P_flipped, up to a constant of each position.

    Added to the student's logits they give P_student P_true / P_flipped, normalised. A teacher that does not read the
    labels has P_true = P_flipped, and the student is its own target.
    """
    assert true.logits is not None
    assert flipped.logits is not None
    return replace(true, logits=true.logits.float() - flipped.logits.float())


def label_metrics(
    credit: Tensor, true: TeacherTargets, flipped: TeacherTargets, batch: TeacherMiniBatch, group: Any
) -> dict[str, float]:
    """Return label sensitivity (nats a token) and copy share, the same on every rank.

    Args:
        credit: ``[n]`` log P_true - log P_student of every scored token of the rank's mini-batch.
        true, flipped: the teacher at these tokens, behind the block and behind its labels inverted.
        group: data-parallel process group.
    """
    assert true.token_log_prob is not None
    assert flipped.token_log_prob is not None
    shift = true.token_log_prob - flipped.token_log_prob
    counts = batch.tokens_per_trajectory.to(shift.device)
    sign = 2.0 * batch.correct.to(shift.device) - 1.0
    per_token = (sign / counts.clamp_min(1)).repeat_interleave(counts)
    labelled, copied = (shift / 2).abs().sum(), (credit - shift / 2).abs().sum()
    sums = torch.stack([(per_token * shift).sum(), (counts > 0).sum().float(), copied, labelled])
    dist.all_reduce(sums, group=group)
    sensitivity, trajectories, copied, labelled = sums
    return {
        "label_sensitivity": float(sensitivity / trajectories.clamp_min(1)),
        "copy_share": float(copied / (copied + labelled)) if copied + labelled > 0 else 0.0,
    }
