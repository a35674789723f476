"""From one step's finished rollouts to the teacher's rows: group, label, render, place, encode. Plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sd_search_verl.config import HindsightConfig, SDSearchConfig
from sd_search_verl.hindsight.block import RolloutSummary, documents_block, fit_block, place_block
from sd_search_verl.hindsight.outcome import is_correct, shuffled_labels
from sd_search_verl.hindsight.teacher_rows import TeacherRow, scored_tokens, teacher_row
from sd_search_verl.protocol.base import Messages
from sd_search_verl.rollout.types import Rollout


@dataclass(frozen=True)
class TeacherInputs:
    """Everything the teacher pass needs for one rollout; no rows when it has no token to score.

    Attributes:
        weight: factor of the trajectory's term in L_SD.
        blocks: block text of each row.
        dropped: rollouts left out of the blocks for length.
    """

    rows: list[TeacherRow]
    weight: float
    blocks: list[str]
    dropped: int


def prepare(
    rollouts: Sequence[Rollout],
    config: SDSearchConfig,
    tokenizer: Any,
    encode: Callable[[Messages], list[int]],
    seed: int,
) -> list[TeacherInputs]:
    """Teacher inputs of every rollout, in the order given.

    Args:
        rollouts: all rollouts of the step; groups may have any size.
        config: the method.
        tokenizer: counts the block's tokens.
        encode: chat messages to prompt token ids, the same function that made the student's prompts.
        seed: of the label shuffle.
    """
    summaries = _summaries(rollouts, config.hindsight, seed)
    groups: dict[str, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        groups.setdefault(rollout.prompt.group, []).append(index)
    cache: dict[str, int] = {}

    def count_tokens(text: str) -> int:
        if text not in cache:
            cache[text] = len(tokenizer.encode(text, add_special_tokens=False))
        return cache[text]

    inputs: list[TeacherInputs] = []
    prompts: dict[tuple[str, str], list[int]] = {}
    for index, rollout in enumerate(rollouts):
        members = groups[rollout.prompt.group]
        blocks, dropped = [], 0
        if config.hindsight.content == "current_documents":
            parts = [(documents_block(_document(rollout, i)), [span]) for i, span in enumerate(rollout.spans)]
        else:
            group = [summaries[i] for i in members]
            block, dropped = fit_block(group, members.index(index), config.hindsight, count_tokens)
            parts = [(block, rollout.spans)]
        rows = []
        for block, spans in parts:
            tokens = scored_tokens(spans, rollout.response_mask, config.positions)
            if not tokens:
                continue
            key = (rollout.prompt.group, block)
            if key not in prompts:
                prompts[key] = (
                    encode(place_block(rollout.prompt.messages, block, config.hindsight))
                    if block
                    else rollout.prompt.token_ids
                )
            rows.append(
                teacher_row(prompts[key], len(rollout.prompt.token_ids), rollout.response_ids, tokens)
            )
            blocks.append(block)
        weight = trajectory_weight(
            [is_correct(rollouts[i].f1, config.hindsight) for i in members], config.weighting
        )
        inputs.append(TeacherInputs(rows, weight, blocks, dropped))
    return inputs


def trajectory_weight(correct: Sequence[bool], weighting: str) -> float:
    """1, or sqrt(p (1 - p)) with p the group's share of CORRECT (``group_variance``; SC-SDPO, arXiv 2605.27765)."""
    if weighting == "uniform":
        return 1.0
    share = sum(correct) / len(correct)
    return math.sqrt(share * (1 - share))


def _summaries(rollouts: Sequence[Rollout], config: HindsightConfig, seed: int) -> list[RolloutSummary]:
    summaries = [RolloutSummary(r.queries, r.f1, r.response) for r in rollouts]
    if config.labels != "shuffled":
        return summaries
    labels = shuffled_labels([s.correct(config) for s in summaries], seed)
    return [replace(summary, label=label) for summary, label in zip(summaries, labels, strict=True)]


def _document(rollout: Rollout, query: int) -> str:
    return rollout.searches[query].documents if query < len(rollout.searches) else ""
