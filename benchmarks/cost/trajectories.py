"""Rollouts of real lengths and random tokens: what a step costs depends on the lengths alone.

``--data DIR`` reads the lengths of recorded trajectories (``DIR/wiki18-mini/trajectories_nq.jsonl.gz``, tokenised with
``DIR/qwen2.5-tokenizer``). Without it they come from ``LENGTHS``: every fiftieth of 2,000 such trajectories of
Qwen2.5-3B search agents on Natural Questions, in order of length.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sd_search_verl.hindsight.teacher_inputs import TeacherInputs, teacher_row
from sd_search_verl.protocol import get
from sd_search_verl.protocol.spans import Span, query_spans

BLOCK_HEADER, BLOCK_LINE = 15, 7
"""Tokens of a hindsight block besides its queries: its first line, and each rollout's number and label."""


@dataclass(frozen=True)
class Lengths:
    """Token counts of one rollout: its prompt, its response, and where in the response its queries stand."""

    prompt: int
    response: int
    spans: Sequence[Span]

    @property
    def query_tokens(self) -> int:
        """|Q_tau|."""
        return sum(end - start for start, end in self.spans)


@dataclass(frozen=True)
class Rollout:
    """One row of a step: the student's tokens, and the teacher's row."""

    lengths: Lengths
    prompt_ids: list[int]
    response_ids: list[int]
    teacher: TeacherInputs


def records(data: Path) -> Iterator[dict[str, Any]]:
    """Yield the recorded trajectories under ``data``, as they were written."""
    with gzip.open(data / "wiki18-mini" / "trajectories_nq.jsonl.gz", "rt") as file:
        yield from map(json.loads, file)


def recorded(data: Path) -> list[Lengths]:
    """Return the lengths of all recorded trajectories under ``data``."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(data / "qwen2.5-tokenizer")
    protocol = get("search_r1")
    found = []
    for record in records(data):
        prompt = tokenizer.encode(record["prompt"], add_special_tokens=False)
        response = tokenizer.encode(record["response"], add_special_tokens=False)
        found.append(Lengths(len(prompt), len(response), query_spans(response, tokenizer, protocol)))
    return found


def draw_groups(lengths: Sequence[Lengths], groups: int, size: int, seed: int) -> list[list[Lengths]]:
    """Return ``groups`` questions with ``size`` rollouts each; the rollouts of a question share their prompt."""
    draw = random.Random(seed)
    chosen = [draw.choices(lengths, k=size) for _ in range(groups)]
    return [[replace(item, prompt=group[0].prompt) for item in group] for group in chosen]


def block_length(group: Sequence[Lengths]) -> int:
    """Return the number of tokens of a group's hindsight block."""
    return BLOCK_HEADER + sum(BLOCK_LINE + item.query_tokens for item in group)


def rollouts(
    groups: Sequence[Sequence[Lengths]], vocab_size: int, seed: int, block: int | None = None
) -> list[Rollout]:
    """Return rows of random tokens with these lengths; ``block`` overrides the length of every hindsight block."""
    draw = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(vocab_size) for _ in range(count)]

    rows = []
    for group in groups:
        prompt = tokens(group[0].prompt)
        teacher_prompt = [*tokens(block_length(group) if block is None else block), *prompt]
        for item in group:
            response = tokens(item.response)
            scored = [token for start, end in item.spans for token in range(start, end)]
            own = [teacher_row(teacher_prompt, len(prompt), response, scored)] if scored else []
            rows.append(Rollout(item, prompt, response, TeacherInputs(own, 1.0, [], 0)))
    return rows


# fmt: off
LENGTHS = [
    Lengths(prompt, response, spans)
    for prompt, response, spans in [
        (126, 432, [(22, 29)]), (126, 462, [(3, 10)]), (124, 472, [(3, 8)]), (124, 479, [(27, 33)]),
        (146, 484, [(51, 61)]), (143, 490, [(52, 57)]), (125, 496, [(3, 12)]), (125, 499, []), (126, 500, []),
        (130, 500, []), (147, 502, [(67, 76)]), (144, 507, [(53, 60)]), (125, 511, [(3, 9)]), (144, 514, [(55, 61)]),
        (144, 518, [(71, 76)]), (129, 523, [(3, 14)]), (150, 525, [(58, 70)]), (144, 527, [(70, 76)]),
        (128, 530, [(3, 12)]), (131, 533, [(3, 16)]), (146, 535, [(74, 84)]), (125, 539, [(27, 33)]),
        (144, 542, [(59, 65)]), (145, 545, [(60, 67)]), (144, 549, [(49, 55)]), (145, 553, [(68, 75)]),
        (145, 557, [(59, 65)]), (148, 562, [(50, 60)]), (146, 566, [(61, 69)]), (145, 570, [(52, 59)]),
        (145, 574, [(55, 63)]), (144, 579, [(57, 61)]), (131, 583, [(132, 147)]), (143, 587, [(60, 64)]),
        (124, 593, [(94, 100)]), (132, 600, [(68, 82)]), (130, 622, [(90, 104)]), (127, 681, [(187, 197)]),
        (125, 918, [(3, 9), (456, 462)]), (128, 1031, [(3, 15), (514, 526)]),
    ]
]
# fmt: on
