"""Gradients of alpha * L_SD alone: from verl's engine, and from plain PyTorch on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs
from support.engine import Row, batch_of, gradients, teacher_inputs
from support.reference import naive_sd_loss
from support.tiny import byte_tokenizer

ALPHA = 0.7
Teacher = Callable[[list[Row], SDSearchConfig], list[TeacherInputs]]


def in_tags(rows: list[Row], config: SDSearchConfig) -> list[TeacherInputs]:
    """Teacher inputs of rows in the protocol of tags."""
    return teacher_inputs(rows, config, byte_tokenizer())


def sd_gradients(
    worker: Any,
    rows: list[Row],
    config: SDSearchConfig,
    share: slice = slice(None),
    teacher: Teacher = in_tags,
    **options: Any,
) -> tuple[dict, dict]:
    """Gradients and metrics of one update; without advantages the policy loss has no gradient.

    ``share`` is this rank's part of the rows; blocks are made of whole groups.
    """
    still = [Row(row.rollout, 0.0, row.old_log_probs) for row in rows]
    worker.loss_fn.config = config
    inputs = teacher(rows, config)
    return gradients(worker, batch_of(still[share], inputs[share], ALPHA, **options))


def reference(
    model: Path,
    rows: list[Row],
    config: SDSearchConfig,
    temperature: float = 1.0,
    teacher: Teacher = in_tags,
) -> tuple[dict[str, Tensor], float]:
    """Gradients of alpha * L_SD, and L_SD."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    network.lm_head.register_forward_hook(lambda module, args, logits: logits / temperature)
    return reference_of(network, rows, config, teacher)


def reference_of(
    network: Any, rows: list[Row], config: SDSearchConfig, teacher: Teacher = in_tags
) -> tuple[dict[str, Tensor], float]:
    """As ``reference``, of a network at hand; gradients of its trained parameters."""
    trajectories = []
    for row, item in zip(rows, teacher(rows, config), strict=True):
        student = row.rollout.prompt.token_ids + row.rollout.response_ids
        tokens = [
            (
                r.input_ids,
                [(s + 1, t + 1) for s, t in zip(r.student_positions, r.teacher_positions, strict=True)],
            )
            for r in item.rows
        ]
        flipped = [r.input_ids for r in item.flipped]
        trajectories.append({"student": student, "tokens": tokens, "weight": item.weight, "flipped": flipped})
    loss = naive_sd_loss(
        network,
        trajectories,
        kind=config.divergence,
        top_k=config.top_k,
        support=config.support,
        tail=config.tail,
        uniform=config.target == "uniform",
    )
    (ALPHA * loss).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.requires_grad}, float(loss)


def naive_credit(network: Any, row: Row, item: TeacherInputs) -> list[list[float]]:
    """Per query span: log P_teacher(x) - log P_student(x) of each token, one sequence at a time."""
    student = row.rollout.prompt.token_ids + row.rollout.response_ids
    by_position = {}
    for r in item.rows:
        for s, t in zip(r.student_positions, r.teacher_positions, strict=True):
            ratio = 0.0
            for ids, position, sign in ((r.input_ids, t, 1), (student, s, -1)):
                logits = network(torch.tensor([ids])).logits[0, position]
                ratio += sign * float(logits.double().log_softmax(-1)[student[s + 1]])
            by_position[s + 1 - len(row.rollout.prompt.token_ids)] = ratio
    return [[by_position[token] for token in range(start, end)] for start, end in row.rollout.spans]


def relative_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Of two gradients with the same parameters, relative to the size of the second."""
    assert ours.keys() == theirs.keys()
    difference = sum((ours[name] - theirs[name]).double().square().sum() for name in ours)
    size = sum(theirs[name].double().square().sum() for name in theirs)
    assert size > 0
    return float((difference / size).sqrt())
