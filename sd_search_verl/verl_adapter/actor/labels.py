"""What the labels of the block do: the contrastive target, and two metrics of one mini-batch.

The metrics are those of :mod:`sd_search_verl.distill.labels`, over a mini-batch on all ranks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.distributed as dist
from torch import Tensor

from sd_search_verl.distill.labels import label_measures, label_sums
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
    sums = label_sums(credit, shift, batch.tokens_per_trajectory, batch.correct)
    dist.all_reduce(sums, group=group)
    sensitivity, copy_share = label_measures(sums)
    return {"label_sensitivity": sensitivity, "copy_share": copy_share}
