"""Sample rollouts of a tiny model in the world, in one process without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.rollout.types import Prompt, Rollout
from sd_search_verl.world import text
from sd_search_verl.world.facts import Question, World
from sd_search_verl.world.kv_cache import CachedDecoder

MAX_TURN_TOKENS = 12
"""Of a turn without thinking; with thinking a turn may have ``MAX_THOUGHTS`` more."""
MAX_THOUGHTS = 24


@dataclass
class _Active:
    """A rollout that is being sampled, and the tokens of its unfinished turn."""

    rollout: Rollout
    turn: list[int] = field(default_factory=list)
    done: bool = False


def max_searches(world: World) -> int:
    """Return the searches a rollout may make: one more than any question needs."""
    return world.config.hops + 1


def rollouts(model: Any, tokenizer: Any, world: World, asked: Sequence[Question], seed: int) -> list[Rollout]:
    """Return one rollout of every question, sampled at temperature 1. A turn without a valid action ends it."""
    generator = torch.Generator().manual_seed(seed)
    started = [Rollout(_prompt(question, tokenizer, world)) for question in asked]
    decoder = CachedDecoder(model, len(started))
    closers = {token for piece, token in tokenizer.get_vocab().items() if piece.endswith(">")}
    active = [_Active(rollout) for rollout in started]
    unread = [rollout.prompt.token_ids for rollout in started]
    while active:
        drawn = torch.multinomial(decoder.append(unread).softmax(-1), 1, generator=generator)[:, 0].tolist()
        unread = [
            [token, *_extend(one, token, tokenizer, world, token in closers)]
            for one, token in zip(active, drawn, strict=True)
        ]
        going = [place for place, one in enumerate(active) if not one.done]
        if going and len(going) < len(active):
            decoder.select(going)
        active, unread = [active[place] for place in going], [unread[place] for place in going]
    return [rollout.finish(tokenizer) for rollout in started]


def success_rate(model: Any, tokenizer: Any, world: World, asked: Sequence[Question], seed: int) -> float:
    """Return the share of the questions whose sampled rollout gives the true answer."""
    finished = rollouts(model, tokenizer, world, asked, seed)
    return sum(rollout.em for rollout in finished) / len(finished)


@torch.no_grad()
def next_token_logits(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the logits ``[len(rows), vocabulary]`` of the token that follows each row."""
    # Padding is at the end, where causal attention of the positions used does not reach it.
    width = max(map(len, rows))
    batch = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    ends = torch.tensor([len(row) - 1 for row in rows])
    hidden = model.model(input_ids=batch).last_hidden_state[torch.arange(len(rows)), ends]
    return model.lm_head(hidden)


def phrasing_probability(
    model: Any, tokenizer: Any, begun: Sequence[str], phrasings: Sequence[str]
) -> torch.Tensor:
    """Return ``[len(begun)]``, the probability that each text continues with its phrasing, a product over words."""
    rows, right = [], []
    for start, phrasing in zip(begun, phrasings, strict=True):
        words = phrasing.split()
        for place, word in enumerate(words):
            rows.append(tokenizer.encode("".join([start, *(f" {before}" for before in words[:place])])))
            right.append(tokenizer.convert_tokens_to_ids(f" {word}"))
    probabilities = next_token_logits(model, rows).softmax(-1)[range(len(rows)), right]
    return probabilities.view(len(begun), -1).prod(-1)


def _prompt(question: Question, tokenizer: Any, world: World) -> Prompt:
    messages = text.prompt(question.text)
    return Prompt(question.text, messages, tokenizer.encode(text.render(messages)), [world.answer(question)])


def _extend(active: _Active, token: int, tokenizer: Any, world: World, may_end: bool) -> list[int]:
    """Add a sampled token and, when the turn is complete, execute its search or end the rollout.

    Args:
        may_end: whether the token can end an action.

    Returns:
        The observation that follows the token, or an empty list.
    """
    active.turn.append(token)
    turn = tokenizer.decode(active.turn) if may_end else ""
    ended = turn.endswith(tuple(text.PROTOCOL.stop))
    max_tokens = MAX_TURN_TOKENS + (MAX_THOUGHTS if world.config.filler else 0)
    if not ended and len(active.turn) < max_tokens:
        return []
    rollout, token_ids, active.turn = active.rollout, active.turn, []
    rollout.add_turn(token_ids, None)
    query, rollout.answer = text.PROTOCOL.query(turn), text.PROTOCOL.answer(turn)
    if query is not None:
        spans = query_spans(token_ids, tokenizer, text.PROTOCOL, [1] * len(token_ids))
        rollout.add_queries([(query, spans[0] if spans else (0, 0))], spans, len(token_ids))
    if query is None or len(rollout.queries) > max_searches(world):
        rollout.status = "turn_limit" if query else "answered" if rollout.answer is not None else "no_answer"
        active.done = True
        return []
    found = world.retrieve(query)
    rollout.add_search(found, text.PROTOCOL.documents(found), latency_s=0.0, error=None)
    observation: list[int] = tokenizer.encode(text.observation(found))
    rollout.add_observation(observation)
    return observation
