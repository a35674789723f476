"""Outcome labels: y(tau) = CORRECT if F1(answer) > rho, else INCORRECT."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sd_search_verl.config import HindsightConfig

CORRECT = "CORRECT"
INCORRECT = "INCORRECT"


def is_correct(f1: float, config: HindsightConfig) -> bool:
    """Whether an answer with this token F1 counts as correct."""
    return f1 > config.correct_above_f1


def shuffled_labels(correct: Sequence[bool], seed: int) -> list[bool]:
    """The same labels in another order over the whole batch: a control that keeps their share but not their truth.

    Permuting inside a group is a weak control, because a group with better queries has more CORRECT labels.
    """
    labels = list(correct)
    random.Random(seed).shuffle(labels)
    return labels
