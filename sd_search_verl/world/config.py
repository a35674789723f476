"""Difficulty of the world, and training of the warm start: the only place their defaults stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from sd_search_verl.config_base import ConfigModel, Count, Share, Unit
from sd_search_verl.world.words import NAMES, RELATIONS

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The warm-started model that is shipped. It knows the protocol and how to read a block, and no world."""
TOOL_CHECKPOINT = CHECKPOINT.with_name("tool_checkpoint")
"""The same model after a short training on tool calls; see :mod:`.tool_call`."""
HEAD_DIM = 32
"""The smallest head of vLLM's CPU attention. Two such heads did not learn to copy from a block; four do."""


class WorldConfig(ConfigModel):
    """What a world contains, and how the demonstrations of its warm start behave. Worlds of equal config are equal."""

    seed: Annotated[int, Unit("seed")] = 0
    """Seed of facts and questions."""
    relations: Annotated[int, Field(ge=2, le=len(RELATIONS)), Unit("relations")] = 12
    """Relations between names."""
    words: Annotated[Count, Unit("words")] = 1
    """Words of a phrasing. All must be right to find the truth."""
    candidates: Annotated[int, Field(ge=2), Unit("words")] = 8
    """Words to choose from at each place of a phrasing; a relation has candidates ** words phrasings, one right."""
    distractors: Annotated[int, Field(ge=0), Unit("phrasings")] = 15
    """Most wrong phrasings of a relation that have passages, each with a plausible wrong value. The others find
    no passage of their own."""
    documents: Annotated[int, Field(ge=1, le=5), Unit("passages")] = 1
    """Passages a search finds: the query's own comes first, then others about the same name and relation."""
    names: Annotated[int, Field(le=len(NAMES)), Unit("names")] = 64
    """Names that facts are about."""
    held_out_names: Annotated[Count, Unit("names")] = 16
    """Names that are subjects of validation questions only. They do occur as values in training."""
    hops: Annotated[int, Field(ge=1, le=4), Unit("hops")] = 2
    """Most hops of a question."""
    one_hop_share: Share = 0.5
    """Share of questions with one hop; the others have 2 to ``hops``, equally often."""
    filler: Annotated[float, Field(ge=0, lt=1), Unit("share")] = 0.0
    """Share of words of thinking in what precedes a turn's action: f / (1 - f) words on average."""
    habit: Annotated[float, Field(ge=0, lt=1), Unit("share")] = 0.0
    """Probability that a demonstration uses a relation's first phrasing by habit. Above 0 that one is never right."""
    train_questions: Annotated[Count, Unit("questions")] = 1024
    """Questions to train on."""
    val_questions: Annotated[Count, Unit("questions")] = 192
    """Questions to validate on."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        listed = min(map(len, RELATIONS.values()))
        _require(self.words <= listed // 2, self, "words", f"at most {listed // 2}, half of the listed words")
        _require(self.candidates <= listed // self.words, self, "candidates", f"at most {listed} / words")
        _require(self.documents <= self.phrasings, self, "documents", "at most candidates ** words")
        _require(
            self.names > self.phrasings,
            self,
            "names",
            f"at least {self.phrasings + 1}, one per phrasing and 1",
        )
        _require(self.held_out_names < self.names, self, "held_out_names", "below names")
        _require(self.hops <= self.relations, self, "hops", "at most relations")
        return self

    @property
    def phrasings(self) -> int:
        """Phrasings of a relation."""
        return int(self.candidates**self.words)

    @property
    def chance(self) -> float:
        """Probability of the right phrasing for a policy that knows no world."""
        return (1 - self.habit) / (self.phrasings - 1) if self.habit else 1 / self.phrasings

    def share_of(self, hops: int) -> float:
        """Return the share of questions with ``hops`` hops."""
        if self.hops == 1:
            return float(hops == 1)
        return self.one_hop_share if hops == 1 else (1 - self.one_hop_share) / (self.hops - 1)


DIFFICULTY = frozenset(WorldConfig.model_fields) - {"seed"}
"""Fields that say what kind of world it is; worlds of one kind differ in their seed."""


def _require(ok: bool, config: WorldConfig, name: str, rule: str) -> None:
    if not ok:
        raise ValueError(f"{name}={getattr(config, name)!r} must be {rule}")


class FitConfig(ConfigModel):
    """Supervised training of the warm start: steps and optimiser."""

    seed: Annotated[int, Unit("seed")] = 1
    """Seed of fresh weights and of the demonstrations."""
    steps: Annotated[Count, Unit("steps")] = 3000
    """Training steps."""
    batch: Annotated[Count, Unit("examples")] = 48
    """Examples a step."""
    micro_batches: Annotated[Count, Unit("parts")] = 3
    """A batch is sorted by length and cut into this many, so that little of it is padding."""
    learning_rate: Annotated[float, Field(gt=0), Unit("1 / step")] = 2e-3
    """Peak learning rate of AdamW."""
    warmup_steps: Annotated[Count, Unit("steps")] = 100
    """Steps of the learning rate's linear warm-up."""
    final_share: Share = 0.05
    """The learning rate ends, along a cosine, at this share of its peak."""
