"""Difficulty of the world, and training of the reference in it: the only place their defaults stand."""

from __future__ import annotations

from dataclasses import dataclass

from sd_search_verl.world.words import NAMES, RELATIONS


@dataclass(frozen=True)
class WorldConfig:
    """What a world contains. Two worlds of equal config and seed are equal.

    Raises:
        ValueError: a number that the word lists or the other numbers do not allow.
    """

    seed: int = 0
    relations: int = 12
    phrasings: int = 8
    """Candidate phrasings of a relation; one is right."""
    distractors: int = 7
    """Wrong phrasings of a relation that have passages, each with a plausible wrong value. The others find
    no passage of their own."""
    names: int = 64
    held_out_names: int = 16
    """Names that are subjects of validation questions only. They do occur as values in training."""
    two_hop_share: float = 0.5
    """Share of questions with two hops; the others have one."""
    train_questions: int = 1024
    val_questions: int = 192

    def __post_init__(self) -> None:
        self._require(2 <= self.relations <= len(RELATIONS), "relations", f"between 2 and {len(RELATIONS)}")
        most = min(map(len, RELATIONS.values()))
        self._require(2 <= self.phrasings <= most, "phrasings", f"between 2 and {most}")
        self._require(0 <= self.distractors < self.phrasings, "distractors", "between 0 and phrasings - 1")
        fewest = self.phrasings + 1
        self._require(fewest <= self.names <= len(NAMES), "names", f"between {fewest} and {len(NAMES)}")
        self._require(0 < self.held_out_names < self.names, "held_out_names", "between 1 and names - 1")
        self._require(0 <= self.two_hop_share <= 1, "two_hop_share", "between 0 and 1")
        self._require(self.train_questions >= 1, "train_questions", "at least 1")
        self._require(self.val_questions >= 1, "val_questions", "at least 1")

    def _require(self, ok: bool, name: str, rule: str) -> None:
        if not ok:
            raise ValueError(f"world.{name}={getattr(self, name)!r} must be {rule}")


@dataclass(frozen=True)
class TrainConfig:
    """Training in the reference: everything but the method. Names of PPO's terms are verl's."""

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
