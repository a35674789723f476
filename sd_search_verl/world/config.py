"""Difficulty of the world, and training of the reference in it: the only place their defaults stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sd_search_verl.config import ConfigError
from sd_search_verl.world.words import NAMES, RELATIONS

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The warm-started model that is shipped. It knows the protocol and how to read a block, and no world."""
HEAD_DIM = 32
"""The smallest head of vLLM's CPU attention. Two such heads did not learn to copy from a block; four do."""


@dataclass(frozen=True)
class WorldConfig:
    """What a world contains, and how the demonstrations of its warm start behave. Worlds of equal config are equal.

    Raises:
        ConfigError: a number that the word lists or the other numbers do not allow.
    """

    seed: int = 0
    relations: int = 12
    words: int = 1
    """Words of a phrasing. All must be right to find the truth."""
    candidates: int = 8
    """Words to choose from at each place of a phrasing; a relation has candidates ** words phrasings, one right."""
    distractors: int = 15
    """Most wrong phrasings of a relation that have passages, each with a plausible wrong value. The others find
    no passage of their own."""
    documents: int = 1
    """Passages a search finds: the query's own comes first, then others about the same name and relation."""
    names: int = 64
    held_out_names: int = 16
    """Names that are subjects of validation questions only. They do occur as values in training."""
    hops: int = 2
    """Most hops of a question."""
    one_hop_share: float = 0.5
    """Share of questions with one hop; the others have 2 to ``hops``, equally often."""
    filler: float = 0.0
    """Share of words of thinking in what precedes a turn's action: f / (1 - f) words on average."""
    habit: float = 0.0
    """Probability that a demonstration uses a relation's first phrasing by habit. Above 0 that one is never right."""
    train_questions: int = 1024
    val_questions: int = 192

    def __post_init__(self) -> None:
        self._require(2 <= self.relations <= len(RELATIONS), "relations", f"between 2 and {len(RELATIONS)}")
        listed = min(map(len, RELATIONS.values()))
        self._require(1 <= self.words <= listed // 2, "words", f"between 1 and {listed // 2}")
        most = listed // self.words
        self._require(2 <= self.candidates <= most, "candidates", f"between 2 and {most}")
        self._require(self.distractors >= 0, "distractors", "at least 0")
        self._require(1 <= self.documents <= min(self.phrasings, 5), "documents", "between 1 and 5")
        fewest = self.phrasings + 1
        self._require(fewest <= self.names <= len(NAMES), "names", f"between {fewest} and {len(NAMES)}")
        self._require(0 < self.held_out_names < self.names, "held_out_names", "between 1 and names - 1")
        self._require(1 <= self.hops <= 4, "hops", "between 1 and 4")
        self._require(self.hops <= self.relations, "hops", "at most relations")
        self._require(0 <= self.one_hop_share <= 1, "one_hop_share", "between 0 and 1")
        self._require(0 <= self.filler < 1, "filler", "at least 0 and below 1")
        self._require(0 <= self.habit < 1, "habit", "at least 0 and below 1")
        self._require(self.train_questions >= 1, "train_questions", "at least 1")
        self._require(self.val_questions >= 1, "val_questions", "at least 1")

    @property
    def phrasings(self) -> int:
        """Phrasings of a relation."""
        return int(self.candidates**self.words)

    @property
    def chance(self) -> float:
        """Probability of the right phrasing for a policy that knows no world."""
        return (1 - self.habit) / (self.phrasings - 1) if self.habit else 1 / self.phrasings

    def share_of(self, hops: int) -> float:
        """Share of questions with ``hops`` hops."""
        if self.hops == 1:
            return float(hops == 1)
        return self.one_hop_share if hops == 1 else (1 - self.one_hop_share) / (self.hops - 1)

    def _require(self, ok: bool, name: str, rule: str) -> None:
        if not ok:
            raise ConfigError(f"world.{name}={getattr(self, name)!r} must be {rule}")


@dataclass(frozen=True)
class TrainConfig:
    """Training in the reference: everything but the method. Names of PPO's terms are verl's.

    Raises:
        ConfigError: a number with which nothing can be trained.
    """

    seed: int = 0
    steps: int = 49
    questions: int = 8
    """Questions a step."""
    group: int = 5
    """Rollouts of each question."""
    learning_rate: float = 1e-3
    warmup_steps: int = 5
    """Of the learning rate, linear."""
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    clip_ratio: float = 0.2
    clip_ratio_c: float = 3.0
    evaluate_every: int = 7
    """Steps between evaluations on held-out questions; one follows the last step too."""

    def __post_init__(self) -> None:
        # A group of one has no spread to be measured by.
        least = {"steps": 1, "questions": 1, "group": 2, "evaluate_every": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"train.{name}={getattr(self, name)!r} must be at least {value}")
        if not self.learning_rate > 0:
            raise ConfigError(f"train.learning_rate={self.learning_rate!r} must be above 0")


@dataclass(frozen=True)
class FitConfig:
    """Steps and optimiser."""

    seed: int = 1
    steps: int = 3000
    batch: int = 48
    """Examples a step."""
    micro_batches: int = 3
    """A batch is sorted by length and cut into this many, so that little of it is padding."""
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    final_share: float = 0.05
    """The learning rate ends, along a cosine, at this share of its peak."""
