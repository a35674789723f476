"""Sample rollouts of one search and one answer, all of a batch in step, with a key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import torch

from benchmarks.data.wiki18_mini import PROTOCOL
from benchmarks.real_model.effect.data import MAX_OBSERVATION_TOKENS, Question
from retriever_server.backends.registry import open_engine
from retriever_server.indexing.base import BuildOptions
from retriever_server.indexing.build import build
from retriever_server.settings import Settings
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.protocol.token_bytes import decode
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.rollout.observation import ObservationEncoder
from sd_search_verl.rollout.types import Prompt, Rollout
from sd_search_verl.world.kv_cache import CachedDecoder

MAX_TURN_TOKENS = 28

Retrieve = Callable[[Sequence[str]], list[list[str]]]
"""Queries -> the passages of each."""


def retriever(corpus: Path, index: Path) -> Retrieve:
    """Return the search of one passage in the project's bm25s index, which is built where it is missing."""
    if not index.is_dir():
        build("bm25s", corpus, index, BuildOptions.from_strings({}))
    engine = open_engine(
        Settings.from_strings({"backend": "bm25s", "corpus": str(corpus), "index": str(index)})
    )

    def search(queries: Sequence[str]) -> list[list[str]]:
        found = engine.search(queries, 1)
        return [[orjson.loads(hit.document)["contents"] for hit in hits] for hits in found]

    return search


def rollouts(
    model: Any,
    tokenizer: Any,
    asked: Sequence[Question],
    retrieve: Retrieve,
    seed: int | None,
    answers: bool = True,
) -> list[Rollout]:
    """Return one rollout of every question: a turn, the search that it asks for, and a second turn.

    Args:
        seed: of sampling at temperature 1; None = the most likely tokens.
        answers: whether there is a second turn.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    prompts = {question: _prompt(question, tokenizer) for question in asked}
    found = [Rollout(prompts[question]) for question in asked]
    decoder = CachedDecoder(model, len(found))
    first = _turns(decoder, [rollout.prompt.token_ids for rollout in found], tokenizer, generator)
    searching = []
    for rollout, turn in zip(found, first, strict=True):
        rollout.add_turn(turn, None)
        text = decode(turn, tokenizer)
        query, rollout.answer = PROTOCOL.query(text), PROTOCOL.answer(text)
        if query is not None:
            spans = query_spans(turn, tokenizer, PROTOCOL, [1] * len(turn))
            rollout.add_queries([(query, spans[0] if spans else (0, 0))], spans, len(turn))
            searching.append(rollout)
    observations = ObservationEncoder(tokenizer, PROTOCOL, MAX_OBSERVATION_TOKENS)
    for rollout, contents in zip(
        searching, retrieve([r.queries[0] for r in searching]) if searching else [], strict=True
    ):
        rollout.add_search(contents, PROTOCOL.documents(contents), 0.0, None)
        result = SearchResult([Document("", text, None) for text in contents], 0.0, None)
        rollout.add_observation(observations.documents(result)[0])
    if answers and searching:
        _answer(decoder, found, searching, tokenizer, generator)
    for rollout in found:
        rollout.status = "answered" if rollout.answer is not None else "no_answer"
        rollout.finish(tokenizer)
    return found


def found_gold(rollout: Rollout) -> float:
    """Return the reward: 1 if the search found a golden answer, else 0."""
    return float(any(search.has_gold for search in rollout.searches))


def _answer(
    decoder: CachedDecoder,
    found: Sequence[Rollout],
    searching: Sequence[Rollout],
    tokenizer: Any,
    generator: torch.Generator | None,
) -> None:
    """Add the second turn of every rollout that has searched."""
    going = [place for place, rollout in enumerate(found) if rollout.queries]
    decoder.select(going)
    unread = [_unread(rollout) for rollout in searching]
    for rollout, turn in zip(searching, _turns(decoder, unread, tokenizer, generator), strict=True):
        rollout.add_turn(turn, None)
        rollout.answer = PROTOCOL.answer(decode(turn, tokenizer))


def _unread(rollout: Rollout) -> list[int]:
    """Return the last token of the first turn, which the cache does not hold, and the observation."""
    start = rollout.response_mask.index(0) - 1
    return rollout.response_ids[start:]


def _turns(
    decoder: CachedDecoder,
    unread: Sequence[Sequence[int]],
    tokenizer: Any,
    generator: torch.Generator | None,
) -> list[list[int]]:
    """Return one turn of every row, up to its closing tag or the limit; the cache lacks its last token."""
    turns: list[list[int]] = [[] for _ in unread]
    done = [False] * len(turns)
    while not all(done):
        logits = decoder.append(unread).float().cpu()
        if generator is None:
            drawn = logits.argmax(-1).tolist()
        else:
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0].tolist()
        for place, token in enumerate(drawn):
            if not done[place]:
                turns[place].append(token)
                done[place] = len(turns[place]) == MAX_TURN_TOKENS or _closed(turns[place], tokenizer)
        unread = [[] if ended else [turn[-1]] for turn, ended in zip(turns, done, strict=True)]
    return turns


def _closed(turn: list[int], tokenizer: Any) -> bool:
    tail = turn[-6:]
    return tokenizer.eos_token_id == turn[-1] or any(tag in decode(tail, tokenizer) for tag in PROTOCOL.stop)


def _prompt(question: Question, tokenizer: Any) -> Prompt:
    return Prompt.encode(
        question.text, question.messages, question.golden_answers, tokenizer, {}, max_tokens=1 << 30
    )
