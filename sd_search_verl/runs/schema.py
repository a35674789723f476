"""Schema of a run's files: a JSON object per line, whose keys are the fields below.

A field added here is written, read, and shown in the report. Give it a default, so that files without it stay readable.
A field never changes its meaning: a new meaning takes a new name, and a new layout a new ``FORMAT_VERSION``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, InstanceOf, model_validator

from sd_search_verl.rollout.types import Rollout

METRICS_FILE = "metrics.jsonl"
TRACES_FILE = "traces.jsonl"
OPTIONS_FILE = "options.json"
FORMAT_VERSION = 1
"""Of a trace; a trace without a version has version 1."""

Text = InstanceOf[str]
"""A policy can write half a surrogate pair, which pydantic's own ``str`` refuses."""


@dataclass(frozen=True)
class StepMetrics:
    """A line of ``metrics.jsonl``: ``{"step": step, **values}``; step 0 is verl's validation before training."""

    step: int
    values: dict[str, float]

    @classmethod
    def of(cls, step: int, metrics: Mapping[str, Any]) -> StepMetrics:
        """Return the metrics that are numbers."""
        return cls(step, {name: float(value) for name, value in metrics.items() if _is_number(value)})

    def to_line(self) -> dict[str, Any]:
        """Return the JSON object of the line."""
        return {"step": self.step, **self.values}


class Trace(BaseModel):
    """A line of ``traces.jsonl``: one rollout of a training step, shown without a tokenizer.

    Attributes:
        step: training step, from 1.
        group: identifies the question; rollouts of one question share it.
        prompt: chat messages.
        tokens: text of every response token, joining to ``response``; with it ``spans`` can be shown. A character of
            several tokens stands at the last of them.
        mask: per token, 1 for the policy and 0 for observations.
        spans: half-open range of the query tokens of each query.
        gold_in_documents: per executed search, 1 if a golden answer stands in its documents.
        score: reward.
        blocks: the hindsight block of each teacher row; empty while alpha is 0.
        credit: per span and token, log P_teacher - log P_student in nats; None for a token that is not scored.
        divergence: the same for the divergence of teacher and student.
        retriever: identity of the retrieval servers; empty where it is unknown.
        versions: [start, version]: from token ``start`` on the policy's tokens were sampled by the weights that this
            training step made; empty where it is unknown.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    step: int
    group: Text
    prompt: list[dict[Text, Any]]
    response: Text
    tokens: list[Text]
    mask: list[int]
    queries: list[Text]
    spans: list[list[int]]
    gold_in_documents: list[int]
    answer: Text | None
    golden_answers: list[Text]
    em: float
    f1: float
    score: float
    status: Text
    blocks: list[Text]
    credit: list[list[float | None]] = []
    divergence: list[list[float | None]] = []
    retriever: Text = ""
    versions: list[list[int]] = []

    @classmethod
    def of(cls, step: int, rollout: Rollout, score: float, tokens: Sequence[str], **more: Any) -> Trace:
        """Return the trace of a rollout with the text of each of its tokens.

        A field that a rollout has too, by the same name, is copied.

        Args:
            **more: ``retriever``, and where there was a teacher ``blocks``, ``credit`` and ``divergence``.
        """
        values = {name: value for name, value in vars(rollout).items() if name in cls.model_fields}
        values |= {
            "step": step,
            "group": rollout.prompt.group,
            "prompt": rollout.prompt.messages,
            "golden_answers": list(rollout.prompt.golden_answers),
            "tokens": list(tokens),
            "mask": rollout.response_mask,
            "spans": [list(span) for span in rollout.spans],
            "versions": [list(run) for run in rollout.versions],
            "gold_in_documents": [int(search.has_gold) for search in rollout.searches],
            "score": score,
            "blocks": [],
        }
        return cls(**values | more)

    def to_line(self) -> dict[str, Any]:
        """Return the JSON object of the line."""
        return {"version": FORMAT_VERSION, **dict(self)}

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        length = len(self.tokens)
        if len(self.mask) != length:
            raise ValueError("mask needs one entry per token")
        if not all(len(span) == 2 and 0 <= span[0] <= span[1] <= length for span in self.spans):
            raise ValueError("a span is [start, end] within the tokens")
        sizes = [end - start for start, end in self.spans]
        if any(
            values and [len(part) for part in values] != sizes for values in (self.credit, self.divergence)
        ):
            raise ValueError("credit and divergence need a list per span with a value per token of it")
        return self


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
