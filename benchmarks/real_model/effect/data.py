"""Questions whose answer stands in the corpus, split once, and short demonstrations for the warm start.

Prompt and rollout are the shortest that hold a search: no thinking, one search, one passage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.data.wiki18_mini import PROTOCOL, QUESTIONS, TRAJECTORIES, read_lines, recorded_documents
from benchmarks.real_model.demonstrations import Example
from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.control_tokens import encode_text
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.retriever_client.reply import Document, SearchResult
from sd_search_verl.rollout.observation import ObservationEncoder
from sd_search_verl.scoring import contains_answer

MAX_OBSERVATION_TOKENS = 80
SPLITS = {"held_out": 208, "train": 60, "tuning": 20, "reported": 40}
"""Questions of each part; the others are for warm start and lessons."""


@dataclass(frozen=True)
class Question:
    """A question with its golden answers."""

    text: str
    golden_answers: tuple[str, ...]

    @property
    def messages(self) -> Messages:
        """Return the prompt."""
        return [
            {"role": "system", "content": "Search, then answer."},
            {"role": "user", "content": f"Question: {self.text}"},
        ]


def split(data: Path) -> dict[str, list[Question]]:
    """Return the answerable questions by part: ``held_out``, ``train``, ``tuning``, ``reported`` and ``warm``.

    A question is answerable if a recorded search found a passage with a golden answer.

    Raises:
        DataError: a file is missing or malformed.
    """
    golden = {
        line["question"]: tuple(line["golden_answers"])
        for line in read_lines(data / QUESTIONS, ("question", "golden_answers"))
    }
    answerable = {
        line["question"]
        for line in read_lines(data / TRAJECTORIES, ("question", "response"))
        for documents in recorded_documents(line["response"])
        if contains_answer(documents, golden.get(line["question"], ()))
    }
    questions = [Question(text, golden[text]) for text in golden if text in answerable]
    Random(0).shuffle(questions)
    parts = {}
    for name, count in SPLITS.items():
        parts[name], questions = questions[:count], questions[count:]
    return {**parts, "warm": questions}


def demonstrations(data: Path, questions: Sequence[Question], tokenizer: Any) -> list[Example]:
    """Return recorded successes with one search, without thoughts, with loss on the policy's tokens.

    The passage shown holds the answer within its first ``MAX_OBSERVATION_TOKENS`` tokens.
    """
    by_text = {question.text: question for question in questions}
    observations = ObservationEncoder(tokenizer, PROTOCOL, MAX_OBSERVATION_TOKENS)
    found = []
    for line in read_lines(data / TRAJECTORIES, ("question", "response", "metric")):
        if line["question"] in by_text and line["metric"]["em"] == 1:
            question = by_text[line["question"]]
            found += [
                _example(question, query, answer, seen, tokenizer)
                for query, answer, seen in _turns(line["response"], observations, tokenizer)
            ]
    return found


def _turns(
    response: str, observations: ObservationEncoder, tokenizer: Any
) -> Iterator[tuple[str, str, list[int]]]:
    parsed, documents = PROTOCOL.parse(response), recorded_documents(response)
    if len(parsed.queries) != 1 or len(documents) != 1 or "<" in parsed.queries[0] or not parsed.answer:
        return
    for text in documents[0]:
        seen, _ = observations.documents(SearchResult([Document("", text, None)], 0.0, None))
        if contains_answer([tokenizer.decode(seen)], parsed.answer):
            yield parsed.queries[0], parsed.answer, seen
            return


def _example(question: Question, query: str, answer: str, seen: list[int], tokenizer: Any) -> Example:
    return Example.of(
        [
            (encode_messages(question.messages, tokenizer), 0),
            (encode_text(f"{PROTOCOL.search_open} {query} {PROTOCOL.search_close}", tokenizer), 1),
            (seen, 0),
            (encode_text(f"{PROTOCOL.answer_open} {answer} {PROTOCOL.answer_close}", tokenizer), 1),
        ]
    )
