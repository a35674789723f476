"""Render the hindsight block h(G) that the teacher reads ahead of the student's context.

h(G) lists the queries and the outcome of every rollout of the question, and nothing else ("future masking"): with
thinking, documents or answers in it the teacher could copy the answer and skip retrieval. The outcome label is

    y(tau) = CORRECT if F1(answer of tau) > rho else INCORRECT,    rho = hindsight.correct_above_f1

or by exact match or reward (``hindsight.label``).

The paper does not give its wording; this one is ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from sd_search_verl.config import HindsightConfig
from sd_search_verl.errors import UserError
from sd_search_verl.hindsight.layout import Attempt, render
from sd_search_verl.protocol.base import Messages
from sd_search_verl.rollout.types import Rollout

HEADER_DOCUMENTS = "Documents found for this question:"
NO_SEARCH = "no search"
THIS_ATTEMPT = "(this attempt)"
SEPARATOR = " ; "


@dataclass(frozen=True)
class RolloutSummary:
    """One rollout as the block shows it.

    Attributes:
        queries: issued queries in order.
        f1: token F1 of its answer, in [0, 1]; 0 without an answer.
        response: whole response text, read only by ``content=full``.
        label: the outcome; None = by ``f1``.
    """

    queries: Sequence[str]
    f1: float
    response: str = ""
    label: bool | None = None

    def correct(self, config: HindsightConfig) -> bool:
        """Return the label that the block shows."""
        return self.f1 > config.correct_above_f1 if self.label is None else self.label


def is_correct(rollout: Rollout, config: HindsightConfig) -> bool:
    """Return whether a rollout is CORRECT by ``config.label``.

    Raises:
        UserError: ``label=reward``, and the rollout has no reward.
    """
    if config.label == "em":
        return rollout.em == 1
    if config.label == "f1":
        return rollout.f1 > config.correct_above_f1
    if rollout.reward is None:
        raise UserError("hindsight.label=reward needs rollouts with a reward. Fix: set label=f1 or label=em")
    return rollout.reward > config.correct_above_reward


def shuffled_labels(correct: Sequence[bool], seed: int) -> list[bool]:
    """Return the labels permuted over the whole batch: a control that keeps their share and breaks their truth.

    A permutation inside each group is a weaker control: groups with better queries keep more CORRECT labels.
    """
    labels = list(correct)
    random.Random(seed).shuffle(labels)
    return labels


def render_block(rollouts: Sequence[RolloutSummary], focal: int, config: HindsightConfig) -> str:
    """Return the block of a group as text, "" if no rollout is shown.

    Args:
        rollouts: every rollout of one question, in sampling order.
        focal: index of the scored rollout; ``config.group`` selects relative to it.
        config: content, labels and group.

    Raises:
        ValueError: ``content=current_documents``, whose block depends on the query: use :func:`documents_block`.
    """
    if config.content == "none":
        return ""
    if config.content == "current_documents":
        raise ValueError("hindsight.content=current_documents has a block per query; use documents_block")
    shown = _members(rollouts, focal, config)
    if not shown:
        return ""
    own = rollouts[focal] if config.own == "hidden" else None
    return render([_attempt(rollout, rollout is own, config) for rollout in shown], config)


def documents_block(documents: str) -> str:
    """Return the block of ``content=current_documents``: the documents that the scored query retrieved."""
    return f"{HEADER_DOCUMENTS}\n{documents.strip()}\n" if documents.strip() else ""


def render_block_within(
    rollouts: Sequence[RolloutSummary],
    focal: int,
    config: HindsightConfig,
    count_tokens: Callable[[str], int],
) -> tuple[str, int]:
    """Return :func:`render_block` of as many rollouts as fit ``config.max_tokens``.

    Rollouts are dropped from the end; the focal one is dropped last.

    Returns:
        The block and the number of rollouts dropped; "" and all of them if not even one fits.
    """
    kept = list(range(len(rollouts)))
    while kept:
        block = render_block([rollouts[i] for i in kept], kept.index(focal), config)
        if not block or count_tokens(block) <= config.max_tokens:
            return block, len(rollouts) - len(kept)
        others = [i for i in kept if i != focal]
        kept = sorted({focal, *others[:-1]}) if others else []
    return "", len(rollouts)


def insert_block(messages: Messages, block: str, config: HindsightConfig) -> Messages:
    """Return the student's messages with the block inserted; unchanged if the block is empty.

    Raises:
        UserError: the prompt has no user message to insert it into.
    """
    inserted = [dict(message) for message in messages]
    if not block:
        return inserted
    if config.placement == "system":
        if inserted and inserted[0]["role"] == "system":
            inserted[0]["content"] = f"{inserted[0]['content']}\n{block}"
        else:
            inserted.insert(0, {"role": "system", "content": block})
        return inserted
    users = [message for message in inserted if message["role"] == "user"]
    if not users:
        raise UserError(f"hindsight.placement={config.placement} needs a user message; the prompt has none")
    question = users[-1]["content"]
    before = config.placement == "before_question"
    users[-1]["content"] = f"{block}\n{question}" if before else f"{question.rstrip()}\n\n{block}"
    return inserted


def _members(rollouts: Sequence[RolloutSummary], focal: int, config: HindsightConfig) -> list[RolloutSummary]:
    if config.group == "own":
        return [rollouts[focal]]
    if config.group == "leave_one_out":
        return [rollout for i, rollout in enumerate(rollouts) if i != focal]
    if config.group == "correct_only":
        return [rollout for rollout in rollouts if rollout.correct(config)]
    if config.group == "best_sibling":
        return _best_sibling(rollouts, focal, config)
    return list(rollouts)  # all; other_question has no own rollout to choose from


def _attempt(rollout: RolloutSummary, hidden: bool, config: HindsightConfig) -> Attempt:
    correct = rollout.correct(config)
    # Labels may be flipped or shuffled: then the score that was measured would tell the truth.
    measured = (rollout.f1 > config.correct_above_f1) == correct
    score = rollout.f1 if measured else float(correct)
    return Attempt(correct, score, THIS_ATTEMPT if hidden else _content(rollout, config))


def _best_sibling(
    rollouts: Sequence[RolloutSummary], focal: int, config: HindsightConfig
) -> list[RolloutSummary]:
    """Return the most efficient CORRECT rollout if it is a better example than the focal one (arXiv 2605.22511).

    Efficient is who needs few queries, then who writes a short response.
    """
    most = len(rollouts[focal].queries) if rollouts[focal].correct(config) else math.inf
    better = [r for r in rollouts if r.correct(config) and len(r.queries) < most]
    return [min(better, key=lambda r: (len(r.queries), len(r.response)))] if better else []


def _content(rollout: RolloutSummary, config: HindsightConfig) -> str:
    match config.content:
        case "full":
            return rollout.response.strip()
        case "queries":  # one may hold line breaks; in the block it is one line
            return SEPARATOR.join(" ".join(query.split()) for query in rollout.queries) or NO_SEARCH
        case "none" | "current_documents":
            raise ValueError(f"hindsight.content={config.content} shows no rollout")
        case other:
            assert_never(other)
