"""Recorded trajectories as supervised examples: the token ids and loss mask that the agent loop would hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.data.wiki18_mini import PROTOCOL, DataError, read_lines, recorded_documents
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.rollout.observation import ObservationEncoder
from sd_search_verl.scoring import contains_answer

MAX_TOKENS, MAX_THOUGHT_WORDS, MAX_QUERIES = 640, 40, 2


class Example(NamedTuple):
    """Token ids of a prompt and its rollout; ``loss_mask`` is 1 where the policy wrote the token."""

    input_ids: list[int]
    loss_mask: list[int]

    @classmethod
    def of(cls, parts: Sequence[tuple[list[int], int]]) -> Self:
        """Return the example of these parts, each with the mask of its tokens."""
        return cls([token for ids, _ in parts for token in ids], [mask for ids, mask in parts for _ in ids])


def read_examples(
    path: Path, questions: Iterable[str], tokenizer: Any, max_observation_tokens: int
) -> list[Example]:
    """Return the successful trajectories of ``questions`` that fit in ``MAX_TOKENS``.

    Of each thought the first sentence is kept, and of each observation one document: the last one must hold the answer,
    so that nothing teaches the policy to answer what it has not read.

    Raises:
        DataError: the file is malformed, or holds no such trajectory.
    """
    wanted, found = set(questions), []
    observations = ObservationEncoder(tokenizer, PROTOCOL, max_observation_tokens)
    for line in read_lines(path, ("question", "response", "metric")):
        if line["question"] in wanted and line["metric"]["em"] == 1:
            turns = _turns(line["response"])
            if turns is not None:
                found.append(_encode(line["question"], *turns, tokenizer, observations))
    fitting = [example for example in found if len(example.input_ids) <= MAX_TOKENS]
    if not fitting:
        raise DataError(f"{path} has no successful trajectory of the given questions")
    return fitting


def _turns(response: str) -> tuple[list[tuple[str, str]], str] | None:
    """Return the turns of a rollout, each with the document that answers it, and the final turn; None if malformed."""
    parsed = PROTOCOL.parse(response)
    documents = recorded_documents(response)
    clean = (
        parsed.queries and len(parsed.queries) <= MAX_QUERIES and not any("<" in q for q in parsed.queries)
    )
    if not clean or not parsed.answer or len(documents) != len(parsed.queries) or not all(documents):
        return None
    thoughts = [_thought(response[start:end]) for start, end in PROTOCOL.policy_segments(response)]
    with_answer = [text for text in documents[-1] if contains_answer([text], parsed.answer)]
    if len(thoughts) != len(parsed.queries) + 1 or not thoughts[0] or not with_answer:
        return None
    if max(len(thought.split()) for thought in thoughts) > MAX_THOUGHT_WORDS:
        return None
    shown = [texts[0] for texts in documents[:-1]] + with_answer[:1]
    turns = [
        (f"{_tagged(thought)}{PROTOCOL.search_open} {query} {PROTOCOL.search_close}", text)
        for thought, query, text in zip(thoughts, parsed.queries, shown, strict=False)
    ]
    return turns, f"{PROTOCOL.answer_open} {parsed.answer} {PROTOCOL.answer_close}"


def _thought(turn: str) -> str:
    """Return the first sentence of a turn's thought, or nothing."""
    found = re.search(r"<think>(.*?)(?:</think>|<search>)", turn, re.DOTALL)
    return re.split(r'(?<=[a-z)".!?][.!?])\s', found[1].strip())[0] if found else ""


def _tagged(thought: str) -> str:
    return f"<think> {thought} </think> " if thought else ""


def _encode(
    question: str,
    turns: Sequence[tuple[str, str]],
    last: str,
    tokenizer: Any,
    observations: ObservationEncoder,
) -> Example:
    parts = [(encode_messages(PROTOCOL.prompt(question), tokenizer), 0)]
    for written, document in turns:
        result = SearchResult([Document("", document, None)], 0.0, None)
        parts.append((_ids(written, tokenizer), 1))
        parts.append((observations.documents(result)[0], 0))
    parts.append(([*_ids(last, tokenizer), tokenizer.eos_token_id], 1))
    return Example.of(parts)


def _ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))
