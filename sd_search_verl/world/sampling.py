"""Rollouts of a tiny model in the world, in one process and without a server: for probes, tests and the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sd_search_verl.scoring import exact_match
from sd_search_verl.world import text
from sd_search_verl.world.facts import Question, World
from sd_search_verl.world.reader import Reader

MAX_TURN_TOKENS = 12
"""Of a turn without thinking; with thinking a turn may have ``MAX_THOUGHTS`` more."""
MAX_THOUGHTS = 24


@dataclass
class Rollout:
    """One question on its way: what the policy has read and written, and the turn it is in.

    Attributes:
        ids: the prompt and all that followed.
        mask: of what followed the prompt, 1 where the policy wrote the token and 0 for observations.
        queries: issued queries in order; one above ``max_searches`` is not executed.
    """

    question: Question
    ids: list[int]
    mask: list[int] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    answer: str | None = None
    done: bool = False


def max_searches(world: World) -> int:
    """One more than a question can need."""
    return world.config.hops + 1


def rollouts(model: Any, tokenizer: Any, world: World, asked: Sequence[Question], seed: int) -> list[Rollout]:
    """One rollout of every question at temperature 1. A turn without a valid action ends it."""
    generator = torch.Generator().manual_seed(seed)
    started = [Rollout(q, tokenizer.encode(text.render(text.prompt(q.text)))) for q in asked]
    reader = Reader(model, len(started))
    closers = {token for piece, token in tokenizer.get_vocab().items() if piece.endswith(">")}
    active, unread = started, [rollout.ids for rollout in started]
    while active:
        drawn = torch.multinomial(reader.read(unread).softmax(-1), 1, generator=generator)[:, 0].tolist()
        unread = []
        for rollout, token in zip(active, drawn, strict=True):
            read = len(rollout.ids)
            rollout.ids.append(token)
            rollout.mask.append(1)
            rollout.turn.append(token)
            _end_turn(rollout, tokenizer, world, token in closers)
            unread.append(rollout.ids[read:])
        going = [place for place, rollout in enumerate(active) if not rollout.done]
        if going and len(going) < len(active):
            reader.keep(going)
        active, unread = [active[place] for place in going], [unread[place] for place in going]
    return started


def success_rate(model: Any, tokenizer: Any, world: World, asked: Sequence[Question], seed: int = 0) -> float:
    """Share of the questions whose sampled rollout gives the true answer."""
    finished = rollouts(model, tokenizer, world, asked, seed)
    return sum(exact_match(r.answer, world.answer(r.question)) for r in finished) / len(finished)


@torch.no_grad()
def next_token_logits(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits ``[len(rows), vocabulary]`` of the token that follows each row."""
    # Padding stands behind the causal mask of every position that is read, so its token does not matter.
    width = max(map(len, rows))
    batch = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    ends = torch.tensor([len(row) - 1 for row in rows])
    hidden = model.model(input_ids=batch).last_hidden_state[torch.arange(len(rows)), ends]
    return model.lm_head(hidden)


def phrasing_probability(
    model: Any, tokenizer: Any, begun: Sequence[str], phrasings: Sequence[str]
) -> torch.Tensor:
    """``[len(begun)]``: probability that a text is continued with its phrasing, a product over the words of it."""
    rows, right = [], []
    for start, phrasing in zip(begun, phrasings, strict=True):
        words = phrasing.split()
        for place, word in enumerate(words):
            rows.append(tokenizer.encode("".join([start, *(f" {before}" for before in words[:place])])))
            right.append(tokenizer.convert_tokens_to_ids(f" {word}"))
    probabilities = next_token_logits(model, rows).softmax(-1)[range(len(rows)), right]
    return probabilities.view(len(begun), -1).prod(-1)


def _end_turn(rollout: Rollout, tokenizer: Any, world: World, may_end: bool) -> None:
    """Act on the turn when it is complete: search, answer, or give up. ``may_end``: its last token ends an action."""
    turn = tokenizer.decode(rollout.turn) if may_end else ""
    if not turn.endswith(tuple(text.PROTOCOL.stop)):
        rollout.done = len(rollout.turn) >= MAX_TURN_TOKENS + (MAX_THOUGHTS if world.config.filler else 0)
        return
    query = text.PROTOCOL.query(turn)
    rollout.answer = text.PROTOCOL.answer(turn)
    rollout.turn = []
    if query is not None:
        rollout.queries.append(query)
    if query is None or len(rollout.queries) > max_searches(world):
        rollout.done = True
        return
    observation = tokenizer.encode(text.observation(world.retrieve(query)))
    rollout.ids += observation
    rollout.mask += [0] * len(observation)
