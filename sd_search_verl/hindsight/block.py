"""The hindsight block h(G): what the teacher reads ahead of the ordinary context.

h(G) lists, for every rollout of the question, its queries and its outcome, and nothing else ("future masking"):
no thinking, no document, no answer, else the teacher would read the answer off the block and skip retrieval.
The wording is ours; the paper's is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sd_search_verl.config import HindsightConfig
from sd_search_verl.errors import UserError
from sd_search_verl.hindsight.outcome import CORRECT, INCORRECT, is_correct
from sd_search_verl.protocol.base import Messages

HEADER = "Earlier attempts at this question, each with its outcome and its search queries:"
HEADER_UNLABELLED = "Earlier attempts at this question, each with its search queries:"
HEADER_DOCUMENTS = "Documents found for this question:"
NO_SEARCH = "no search"
SEPARATOR = " ; "


@dataclass(frozen=True)
class RolloutSummary:
    """One rollout as the block sees it.

    Attributes:
        queries: issued queries in order.
        f1: token F1 of its answer, in [0, 1]; 0 without an answer.
        response: whole response text, read only by ``content=full``.
        label: overrides the outcome that ``f1`` gives (shuffled labels); None = by ``f1``.
    """

    queries: Sequence[str]
    f1: float
    response: str = ""
    label: bool | None = None

    def correct(self, config: HindsightConfig) -> bool:
        """The label shown in the block."""
        return is_correct(self.f1, config) if self.label is None else self.label


def render_block(rollouts: Sequence[RolloutSummary], focal: int, config: HindsightConfig) -> str:
    """The block of a group, as text; "" when there is nothing to show.

    Args:
        rollouts: every rollout of one question, in sampling order.
        focal: index of the rollout that is scored; ``group`` is seen from it.
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
    labelled = config.labels != "none"
    lines = [HEADER if labelled else HEADER_UNLABELLED]
    for number, rollout in enumerate(shown, start=1):
        label = f" {CORRECT if rollout.correct(config) else INCORRECT}" if labelled else ""
        lines.append(f"{number}.{label}: {_content(rollout, config)}")
    return "\n".join(lines) + "\n"


def documents_block(documents: str) -> str:
    """The block of ``content=current_documents``: the rendered documents that the scored query retrieved."""
    return f"{HEADER_DOCUMENTS}\n{documents.strip()}\n" if documents.strip() else ""


def fit_block(
    rollouts: Sequence[RolloutSummary],
    focal: int,
    config: HindsightConfig,
    count_tokens: Callable[[str], int],
) -> tuple[str, int]:
    """:func:`render_block` within ``config.max_tokens``.

    Rollouts are dropped from the end, the focal one last of all.

    Returns:
        The block and the number of rollouts dropped. If not even one fits, the block is "" and all are dropped.
    """
    kept = list(range(len(rollouts)))
    while kept:
        block = render_block([rollouts[i] for i in kept], kept.index(focal), config)
        if not block or count_tokens(block) <= config.max_tokens:
            return block, len(rollouts) - len(kept)
        others = [i for i in kept if i != focal]
        kept = sorted({focal, *others[:-1]}) if others else []
    return "", len(rollouts)


def place_block(messages: Messages, block: str, config: HindsightConfig) -> Messages:
    """The teacher's messages: the student's with the block put in. An empty block leaves them as they are.

    Raises:
        UserError: no user message to put it into.
    """
    placed = [dict(message) for message in messages]
    if not block:
        return placed
    if config.placement == "system":
        if placed and placed[0]["role"] == "system":
            placed[0]["content"] = f"{placed[0]['content']}\n{block}"
        else:
            placed.insert(0, {"role": "system", "content": block})
        return placed
    users = [message for message in placed if message["role"] == "user"]
    if not users:
        raise UserError(f"hindsight.placement={config.placement} needs a user message; the prompt has none")
    question = users[-1]["content"]
    before = config.placement == "before_question"
    users[-1]["content"] = f"{block}\n{question}" if before else f"{question.rstrip()}\n\n{block}"
    return placed


def _members(rollouts: Sequence[RolloutSummary], focal: int, config: HindsightConfig) -> list[RolloutSummary]:
    if config.group == "own":
        return [rollouts[focal]]
    if config.group == "leave_one_out":
        return [rollout for i, rollout in enumerate(rollouts) if i != focal]
    if config.group == "correct_only":
        return [rollout for rollout in rollouts if rollout.correct(config)]
    return list(rollouts)


def _content(rollout: RolloutSummary, config: HindsightConfig) -> str:
    if config.content == "full":
        return rollout.response.strip()
    # A query is one line of the block, whatever the policy wrote.
    return SEPARATOR.join(" ".join(query.split()) for query in rollout.queries) or NO_SEARCH
