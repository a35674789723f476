"""What a policy does on questions: greedy scores, and the margin of queries that find a golden answer.

    margin = mean log p(query) of a group's queries that found a golden answer - mean log p(query) of those that did not

Both under the prompt alone, in nats of the whole query, over queries that the starting policy had sampled. It moves
with the first updates, where EM of 208 questions needs hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.data.wiki18_mini import PROTOCOL
from benchmarks.real_model.effect.data import Question
from benchmarks.real_model.effect.sampling import Retrieve, found_gold, rollouts
from benchmarks.table import read_json_lines
from sd_search_verl.protocol.control_tokens import encode_text
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.protocol.spans import query_spans

BATCH = 52


@dataclass(frozen=True)
class Candidates:
    """Distinct sampled queries of a question: those that found a golden answer, and those that did not."""

    question: Question
    finding: Sequence[str]
    missing: Sequence[str]


def read_candidates(path: Path) -> list[Candidates]:
    """Return the groups of a file in which some queries found a golden answer and others did not."""
    groups: dict[Question, dict[str, bool]] = {}
    for one in read_json_lines(path):
        queries = groups.setdefault(Question(one["question"], tuple(one["golden_answers"])), {})
        queries |= {
            " ".join(query.lower().split()): found
            for query, found in zip(one["queries"], one["found"], strict=True)
        }
    candidates = (
        Candidates(
            question,
            [query for query, found in queries.items() if found],
            [query for query, found in queries.items() if not found],
        )
        for question, queries in groups.items()
    )
    return [one for one in candidates if one.finding and one.missing]


def margins(policy: Any, tokenizer: Any, candidates: Sequence[Candidates]) -> list[float]:
    """Return the margin of every group, in nats."""
    asked = [(one.question, query) for one in candidates for query in (*one.finding, *one.missing)]
    scores = iter(_log_probs(policy, tokenizer, asked))
    return [
        fmean(next(scores) for _ in one.finding) - fmean(next(scores) for _ in one.missing)
        for one in candidates
    ]


def greedy(
    policy: Any, tokenizer: Any, questions: Sequence[Question], retrieve: Retrieve, answers: bool
) -> dict[str, list[float]]:
    """Return of every question whether a golden answer was found, and searches, without sampling.

    ``answers`` adds EM and F1, which take a second turn.
    """
    found = []
    for start in range(0, len(questions), BATCH):
        found += rollouts(policy, tokenizer, questions[start : start + BATCH], retrieve, None, answers)
    scores = {"em": [r.em for r in found], "f1": [r.f1 for r in found]} if answers else {}
    return {
        "gold": [found_gold(rollout) for rollout in found],
        "searches": [float(len(rollout.queries)) for rollout in found],
        **scores,
    }


@torch.no_grad()
def _log_probs(policy: Any, tokenizer: Any, asked: Sequence[tuple[Question, str]]) -> list[float]:
    """Return log p of every query, summed over the tokens strictly inside its tags."""
    rows = []
    for question, query in asked:
        prompt = encode_messages(question.messages, tokenizer)
        turn = encode_text(f"{PROTOCOL.search_open} {query} {PROTOCOL.search_close}", tokenizer)
        start, end = query_spans(turn, tokenizer, PROTOCOL)[0]
        rows.append(([*prompt, *turn[:end]], len(prompt) + start))
    found: dict[int, float] = {}
    order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
    for start in range(0, len(order), 16):
        part = order[start : start + 16]
        width = max(len(rows[place][0]) for place in part)
        ids = torch.tensor([[*rows[place][0], *[0] * (width - len(rows[place][0]))] for place in part])
        ids = ids.to(policy.device)
        hidden = policy.model(input_ids=ids, use_cache=False).last_hidden_state
        for row, place in enumerate(part):
            tokens, first = rows[place]
            logits = policy.lm_head(hidden[row, first - 1 : len(tokens) - 1]).float()
            chosen = logits.log_softmax(-1).gather(-1, ids[row, first : len(tokens), None])
            found[place] = float(chosen.sum())
    return [found[place] for place in range(len(rows))]
