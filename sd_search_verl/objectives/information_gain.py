"""Information gain of a search: how much likelier its documents make the gold answer than another question's do.

    IG = m(own documents) - 1/3 sum over j of m(documents_j)
    m(d) = mean over the gold answer's tokens of their log-probability behind the rollout up to the search, d, <answer>
    A(x) += information_gain * sign(IG) log(1 + |IG|) / |query|        at the query's tokens x

IG-Search (arXiv 2604.15148; equations 2 to 4 and the number 3 after a summary of the paper by others, weight 0.3). The
source shapes IG by a dead zone, a weaker negative side and a logarithm whose constants were not to be had; here it is
the logarithm alone. The other documents are observations of other questions in the step. The advantage does not need a
reward: queries of groups in which every rollout fails are taught too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sd_search_verl.protocol.base import Protocol
from sd_search_verl.protocol.control_tokens import encode_text
from sd_search_verl.protocol.spans import Span
from sd_search_verl.rollout.types import Rollout

RANDOM_DOCUMENTS = 3


@dataclass(frozen=True)
class GainInputs:
    """What the teacher reads for one rollout's searches.

    Attributes:
        rows: token ids; for every search the row with its own documents, then those with random ones.
        positions: of each row, the indices of the logits that predict the gold answer's tokens.
        spans: of each search, the query's tokens in the response.
    """

    rows: list[list[int]]
    positions: list[list[int]]
    spans: list[Span]


def build_gain_inputs(
    rollouts: Sequence[Rollout], tokenizer: Any, protocol: Protocol, seed: int
) -> list[GainInputs]:
    """Return the gain inputs of every rollout of a step.

    A search is left out if it has no query token, no documents or no golden answer, or if no other question searched.
    """
    draw = random.Random(f"information gain/{seed}")
    opening = encode_text(protocol.answer_open, tokenizer)
    observations = [[_documents(rollout, i) for i in range(len(rollout.spans))] for rollout in rollouts]
    pool: dict[str, list[list[int]]] = {}
    for rollout, found in zip(rollouts, observations, strict=True):
        pool.setdefault(rollout.prompt.group, []).extend(
            rollout.response_ids[start:end] for start, end in found if start < end
        )
    inputs = []
    for rollout, found in zip(rollouts, observations, strict=True):
        item = GainInputs([], [], [])
        inputs.append(item)
        others = [ids for group, texts in pool.items() if group != rollout.prompt.group for ids in texts]
        golden = rollout.prompt.golden_answers
        if not others or not golden:
            continue
        answer = encode_text(f" {golden[0]}", tokenizer)
        for (first, last), (start, end) in zip(rollout.spans, found, strict=True):
            if start == end or not any(rollout.response_mask[first:last]):
                continue
            own = rollout.response_ids[start:end]
            for documents in [own, *draw.choices(others, k=RANDOM_DOCUMENTS)]:
                before = [*rollout.prompt.token_ids, *rollout.response_ids[:start], *documents, *opening]
                item.rows.append([*before, *answer])
                item.positions.append([len(before) + i - 1 for i in range(len(answer))])
            item.spans.append((first, last))
    return inputs


def gains(log_probs: Sequence[Sequence[float]]) -> list[float]:
    """Return the shaped gain of each search from the log-probs of the gold answer's tokens in each row."""
    means = [fmean(row) for row in log_probs]
    size = 1 + RANDOM_DOCUMENTS
    raw = [means[at] - fmean(means[at + 1 : at + size]) for at in range(0, len(means), size)]
    return [math.copysign(math.log1p(abs(gain)), gain) for gain in raw]


def _documents(rollout: Rollout, query: int) -> Span:
    """Return the range of the observation that follows a query; empty if none does, or a notice that search failed."""
    mask, end, span = rollout.response_mask, len(rollout.response_mask), rollout.spans[query]
    if query < len(rollout.searches) and rollout.searches[query].error is not None:
        return end, end
    start = next((at for at in range(span[1], end) if not mask[at]), end)
    return start, next((at for at in range(start, end) if mask[at]), end)
