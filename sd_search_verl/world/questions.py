"""The questions of a world: a sample of all chains of relations about a name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from sd_search_verl.errors import UserError
from sd_search_verl.world.facts import Question, World


def questions(world: World, split: str) -> list[Question]:
    """Return the distinct questions of a split ("train" or "val"), in random order.

    Raises:
        UserError: the world has fewer distinct questions than the config asks for.
    """
    config = world.config
    total = config.train_questions if split == "train" else config.val_questions
    held_out = set(world.held_out)
    subjects = [name for name in world.names if (name in held_out) == (split == "val")]
    draw = Random(f"{config.seed}/questions/{split}")
    wanted = {hops: round(config.share_of(hops) * total) for hops in range(2, config.hops + 1)}
    chosen: list[Question] = []
    for hops, count in {1: total - sum(wanted.values()), **wanted}.items():
        most = len(subjects) * math.perm(len(world.relations), hops)
        if count > most:
            raise UserError(
                f"world.{split}_questions={total} asks for {count} questions of {hops} hops, "
                f"the world has {most}; lower it or change one_hop_share"
            )
        chosen += [
            _numbered(number, subjects, world.relations, hops) for number in draw.sample(range(most), count)
        ]
    draw.shuffle(chosen)
    return chosen


def _numbered(number: int, subjects: Sequence[str], relations: Sequence[str], hops: int) -> Question:
    """Return question ``number`` of all with ``hops`` hops, ordered by subject, then by each relation."""
    free, chosen = list(relations), []
    subject, number = divmod(number, math.perm(len(free), hops))
    for left in range(hops - 1, -1, -1):
        index, number = divmod(number, math.perm(len(free) - 1, left))
        chosen.append(free.pop(index))
    return Question(subjects[subject], tuple(chosen))
