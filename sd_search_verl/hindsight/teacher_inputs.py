"""Build the teacher's rows from one step's finished rollouts: group, label, render, insert, encode.

A teacher row is the student's own tokens behind the hindsight block, cut after the last scored token. Only the prompt
differs, so both rows are aligned from the start of the response: the logits that predict response token ``j`` stand at
index ``len(prompt) + j - 1`` of either row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from sd_search_verl.config import HindsightConfig, SDSearchConfig
from sd_search_verl.errors import UserError
from sd_search_verl.hindsight.block import (
    RolloutSummary,
    documents_block,
    insert_block,
    is_correct,
    render_block_within,
    shuffled_labels,
)
from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.control_tokens import encode_text
from sd_search_verl.protocol.spans import Span
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.rollout.types import Rollout


@dataclass(frozen=True)
class TeacherRow:
    """One sequence for the teacher, and the positions of its and the student's logits for the same tokens.

    Attributes:
        input_ids: teacher prompt, then the response up to and including the last scored token.
        teacher_positions: index in ``input_ids`` of the logits that predict each scored token.
        student_positions: index in the student's ``prompt + response`` of the logits that predict the same token.
    """

    input_ids: list[int]
    teacher_positions: list[int]
    student_positions: list[int]


@dataclass(frozen=True)
class TeacherInputs:
    """Inputs of the teacher pass for one rollout; no rows when it has no token to score.

    Attributes:
        weight: factor of the trajectory's term in L_SD.
        blocks: block text of each row.
        num_dropped: rollouts left out of the blocks for length, or blocks of documents that were cut.
        correct: outcome of the rollout.
        flipped: ``rows`` behind blocks with every label inverted; empty where they are not needed.
    """

    rows: list[TeacherRow]
    weight: float
    blocks: list[str]
    num_dropped: int
    correct: bool = False
    flipped: list[TeacherRow] = field(default_factory=list)


def build_teacher_inputs(
    rollouts: Sequence[Rollout],
    config: SDSearchConfig,
    tokenizer: Any,
    encode: Callable[[Messages], list[int]],
    seed: int,
    flipped: bool = False,
) -> list[TeacherInputs]:
    """Return the teacher inputs of every rollout, in the order given.

    Args:
        rollouts: all rollouts of the step; groups may have any size.
        config: the method.
        tokenizer: encodes the block alone: to count its tokens, and for prompts that were cut.
        encode: maps chat messages to prompt token ids, as for the student's prompts.
        seed: of the label shuffle.
        flipped: add the rows behind inverted labels; where the loss needs them they are there anyway.

    Raises:
        UserError: ``group=other_question``, and all rollouts are of one question.
    """
    inputs = _build(rollouts, config, tokenizer, encode, seed)
    if not flipped and not config.reads_flipped:
        return inputs
    hindsight = config.hindsight.replace(labels="flipped")
    inverted = config.replace(hindsight=hindsight, target="teacher", gate="none")  # only rows are made of it
    others = _build(rollouts, inverted, tokenizer, encode, seed)
    return [replace(item, flipped=other.rows) for item, other in zip(inputs, others, strict=True)]


def _build(
    rollouts: Sequence[Rollout],
    config: SDSearchConfig,
    tokenizer: Any,
    encode: Callable[[Messages], list[int]],
    seed: int,
) -> list[TeacherInputs]:
    correct = [is_correct(rollout, config.hindsight) for rollout in rollouts]
    summaries = _summarize(rollouts, correct, config.hindsight, seed)
    groups: dict[str, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        groups.setdefault(rollout.prompt.group, []).append(index)
    if config.hindsight.group == "other_question" and len(groups) == 1:
        raise UserError(
            "hindsight.group=other_question needs two questions, there is one. Fix: give more questions"
        )
    following = dict(zip(groups, [*list(groups)[1:], *list(groups)[:1]], strict=True))

    @cache
    def count_tokens(text: str) -> int:
        return len(encode_text(text, tokenizer))

    prompts: dict[tuple[str, str], list[int]] = {}

    def teacher_prompt(rollout: Rollout, block: str) -> list[int]:
        if not block:
            return rollout.prompt.token_ids
        key = (rollout.prompt.group, block)
        if key not in prompts:
            messages, num_cut = rollout.prompt.messages, rollout.prompt.num_cut
            prompt = encode(insert_block(messages, block, config.hindsight))
            if num_cut:
                prompt = cut_like_student(
                    prompt, encode(messages), num_cut, encode_text(f"{block}\n", tokenizer)
                )
            prompts[key] = prompt
        return prompts[key]

    inputs: list[TeacherInputs] = []
    for index, rollout in enumerate(rollouts):
        name = rollout.prompt.group
        members = groups[name]
        focal = members.index(index)
        if config.hindsight.group == "other_question":
            name, focal = following[name], 0
        group = [summaries[i] for i in groups[name]]
        spans = rollout.argument_spans if config.positions == "tool_arguments" else rollout.spans
        if config.positions == "first_difference":
            spans = spans_to_first_difference(rollout, [rollouts[i] for i in members])
        parts, num_dropped = _render_parts(
            rollout, spans, group, focal, config.hindsight, tokenizer, count_tokens
        )
        rows, blocks = [], []
        for block, of_block in parts:
            tokens = scored_tokens(of_block, rollout.response_mask, config.positions)
            if tokens:
                prompt_ids = teacher_prompt(rollout, block)
                rows.append(
                    teacher_row(prompt_ids, len(rollout.prompt.token_ids), rollout.response_ids, tokens)
                )
                blocks.append(block)
        weight = trajectory_weight([correct[i] for i in members], config.weighting)
        inputs.append(TeacherInputs(rows, weight, blocks, num_dropped, correct[index]))
    return inputs


def cut_like_student(teacher: list[int], student: list[int], num_cut: int, block: list[int]) -> list[int]:
    """Return the teacher's prompt for a student's prompt that lost ``num_cut`` tokens at its start.

    Args:
        teacher: whole prompt with the block.
        student: whole prompt without it.
        num_cut: at least 1.
        block: the block alone; it is never cut, and comes first where the cut passes its place.
    """
    before_block = common_prefix(teacher, student)
    return teacher[num_cut:] if num_cut <= before_block else block + student[num_cut:]


def _render_parts(
    rollout: Rollout,
    spans: Sequence[Span],
    group: Sequence[RolloutSummary],
    focal: int,
    config: HindsightConfig,
    tokenizer: Any,
    count_tokens: Callable[[str], int],
) -> tuple[list[tuple[str, list[Span]]], int]:
    """Return a rollout's blocks, each with the query spans it is read for, and the number of rollouts dropped."""
    if config.content == "current_documents":
        texts = [documents_block(_documents_of(rollout, i)) for i in range(len(spans))]
        cut = [_cut(text, config.max_tokens, tokenizer) for text in texts]
        num_cut = sum(short != text for short, text in zip(cut, texts, strict=True))
        return [(text, [span]) for text, span in zip(cut, spans, strict=True)], num_cut
    if config.own != "cut":
        block, num_dropped = render_block_within(group, focal, config, count_tokens)
        return [(block, list(spans))], num_dropped
    parts, num_dropped = [], 0
    for number, (start, end) in enumerate(spans):
        for token in range(start, end):
            written = decode(rollout.response_ids[start:token], tokenizer)
            own = replace(group[focal], queries=[*rollout.queries[:number], f"{written}..."])
            shown = [own if place == focal else other for place, other in enumerate(group)]
            block, num_dropped = render_block_within(shown, focal, config, count_tokens)
            parts.append((block, [(token, token + 1)]))
    return parts, num_dropped


def spans_to_first_difference(rollout: Rollout, group: Sequence[Rollout]) -> list[Span]:
    """Return a rollout's query spans, each up to the first token at which the group's queries at its place differ.

    A query that no other rollout words in another way keeps all of its tokens.
    """
    found = []
    for place, (start, end) in enumerate(rollout.spans):
        query = rollout.response_ids[start:end]
        others = [r.response_ids[slice(*r.spans[place])] for r in group if len(r.spans) > place]
        different = [other for other in others if other != query]
        shared = min((common_prefix(query, other) for other in different), default=len(query))
        found.append((start, min(end, start + shared + 1)))
    return found


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def teacher_row(
    teacher_prompt_ids: Sequence[int],
    student_prompt_length: int,
    response_ids: Sequence[int],
    tokens: Sequence[int],
) -> TeacherRow:
    """Return the row that scores the response tokens with indices ``tokens`` (ascending, not empty)."""
    end = tokens[-1] + 1
    prompt_length = len(teacher_prompt_ids)
    return TeacherRow(
        input_ids=[*teacher_prompt_ids, *response_ids[:end]],
        teacher_positions=[prompt_length + j - 1 for j in tokens],
        student_positions=[student_prompt_length + j - 1 for j in tokens],
    )


def scored_tokens(spans: Sequence[Span], response_mask: Sequence[int], positions: str) -> list[int]:
    """Return the response token indices to score: those of ``spans``, or with ``response`` all of the policy.

    Tokens with mask 0 are never scored: verl's rollout correction sets the mask of what it rejects to 0.
    """
    if positions == "response":
        return [j for j, wrote in enumerate(response_mask) if wrote]
    return sorted(j for start, end in spans for j in range(start, end) if response_mask[j])


def trajectory_weight(correct: Sequence[bool], weighting: str) -> float:
    """Return 1, or for ``group_variance`` sqrt(p (1 - p)), p the group's share of CORRECT (arXiv 2605.27765)."""
    if weighting == "uniform":
        return 1.0
    share = sum(correct) / len(correct)
    return math.sqrt(share * (1 - share))


def _summarize(
    rollouts: Sequence[Rollout], correct: Sequence[bool], config: HindsightConfig, seed: int
) -> list[RolloutSummary]:
    labels = correct
    if config.labels == "shuffled":
        labels = shuffled_labels(correct, seed)
    elif config.labels == "flipped":
        labels = [not label for label in correct]
    return [
        RolloutSummary(rollout.queries, rollout.f1, rollout.response, label)
        for rollout, label in zip(rollouts, labels, strict=True)
    ]


def _cut(text: str, max_tokens: int, tokenizer: Any) -> str:
    """Return the first tokens of a text, or all of it."""
    ids = encode_text(text, tokenizer)
    return text if len(ids) <= max_tokens else decode(ids[:max_tokens], tokenizer)


def _documents_of(rollout: Rollout, query: int) -> str:
    return rollout.searches[query].documents if query < len(rollout.searches) else ""
