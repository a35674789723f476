"""Schema of what `sd-search compare` reads of an evaluation's files, which copies and editors may have damaged."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, StringConstraints

Text = InstanceOf[str]
"""A policy can write half a surrogate pair, which pydantic's own ``str`` refuses."""
Score = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[str, StringConstraints(pattern=r"^-?\d+$")]
"""A whole number as a key of JSON."""


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

    values: Annotated[dict[Seed, float], Field(min_length=1)]


class Seeds(_Strict):
    """The averages of every metric."""

    em: OverSeeds
    f1: OverSeeds
    cover_em: OverSeeds


class OfSet(_Strict):
    """What results say of a set, beside its metrics."""

    questions: int = 0


class Options(_Strict):
    """The evaluation's options, which older ones may not have."""

    search: dict[str, Any] = {}


class Results(_Strict):
    """``results.json``."""

    protocol_hash: str
    questions: str
    sets: dict[str, OfSet]
    seeds: Seeds
    config: Options = Options()
