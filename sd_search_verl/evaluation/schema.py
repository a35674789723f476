"""Schema of what `sd-search compare` reads of an evaluation's files, which copies and editors may have damaged."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

Text = InstanceOf[str]
"""A policy can write half a surrogate pair, which pydantic's own ``str`` refuses."""
Score = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class Row(_Strict):
    """A line of ``trajectories.jsonl``, beside its key."""

    question: Text
    answer: Text | None
    golden_answers: list[str]
    em: Score
    f1: Score
    cover_em: Score


class OverSeeds(_Strict):
    """A metric's macro average by seed."""

    values: dict[str, float]


class Seeds(_Strict):
    """The averages of every metric."""

    em: OverSeeds
    f1: OverSeeds
    cover_em: OverSeeds


class Results(_Strict):
    """``results.json``."""

    protocol_hash: str
    questions: str
    sets: dict[str, dict[str, Any]]
    seeds: Seeds
    config: dict[str, Any] = {}
