"""Read question files: JSON lines with question and golden answers, or parquet in verl's format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from sd_search_verl import scoring
from sd_search_verl.data.jsonl import (
    MalformedRowsError,
    Problem,
    check_answers,
    check_text,
    get_field,
    read_objects,
)
from sd_search_verl.data.messages import message_problem
from sd_search_verl.errors import UserError
from sd_search_verl.files import read_parquet
from sd_search_verl.protocol import explained_instead
from sd_search_verl.protocol.base import Messages, Protocol
from sd_search_verl.protocol.prompt import text_messages


@dataclass(frozen=True)
class Question:
    """One question; ``id`` is unique in its ``set``."""

    set: str
    id: str
    question: str
    golden_answers: list[str]
    messages: Messages
    """Prompt of the file's row, or the protocol's prompt where the row has none."""


def read_questions(
    path: Path, name: str | None, protocol: Protocol, sample: int | None = None
) -> list[Question]:
    """Return the questions of a file, in its order.

    Args:
        path: ``.parquet`` in verl's format, or JSON lines with ``question`` and ``golden_answers`` (``.gz`` too).
        name: of the set; None = the file's name, or ``data_source`` of a parquet's rows.
        protocol: makes the prompt where the file has none; a prompt of another one is a problem.
        sample: number of questions of each set, drawn with a fixed seed; None = all.

    Raises:
        UserError: no such file, or no question in it.
        MalformedRowsError: malformed rows, named by line (of a parquet: row) and field.
    """
    found = enumerate(stream_questions(path, name, protocol), start=1)
    questions = list(good_questions(path, (_in_protocol(number, one, protocol) for number, one in found)))
    return questions if sample is None else _sampled(questions, sample)


def _in_protocol(number: int, found: Question | Problem, protocol: Protocol) -> Question | Problem:
    if isinstance(found, Problem):
        return found
    prompt = "\n".join(message["content"] for message in found.messages)
    if (other := explained_instead(prompt, protocol.name)) is None:
        return found
    reason = f"tells the policy of {other}, not of {protocol.name}. Fix: set search.protocol={other}"
    return Problem(number, "prompt", reason)


def stream_questions(path: Path, name: str | None, protocol: Protocol) -> Iterator[Question | Problem]:
    """Yield the question of every row, or its problem; arguments as of :func:`read_questions`."""
    rows = _parquet_rows(path) if path.suffix == ".parquet" else read_objects(path)
    stem = path.name.removesuffix(".gz").removesuffix(path.suffix).removesuffix(".jsonl")
    lines: dict[tuple[str, str], int] = {}
    for number, row in rows:
        found = row if isinstance(row, Problem) else _question(number, row, name, stem, protocol)
        if isinstance(found, Question):
            first = lines.setdefault((found.set, found.id), number)
            if first != number:
                found = Problem(number, "id", f"{found.id!r} stands in line {first} already")
        yield found


def good_questions(path: Path, found: Iterable[Question | Problem]) -> Iterator[Question]:
    """Yield the questions; raise at the end if there were problems or no question.

    Raises: as :func:`read_questions`.
    """
    problems: list[Problem] = []
    count = 0
    for one in found:
        if isinstance(one, Problem):
            problems.append(one)
        else:
            count += 1
            yield one
    if problems:
        raise MalformedRowsError(path, problems)
    if not count:
        raise UserError(f"{path} has no question")


def _sampled(questions: list[Question], sample: int) -> list[Question]:
    chosen: set[int] = set()
    for name in dict.fromkeys(question.set for question in questions):
        members = [i for i, question in enumerate(questions) if question.set == name]
        chosen |= set(members if len(members) <= sample else Random(0).sample(members, sample))
    return [questions[i] for i in sorted(chosen)]


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise UserError(f"{path} is missing")
    yield from enumerate(read_parquet(path), start=1)


def _question(
    number: int, row: dict[str, Any], name: str | None, stem: str, protocol: Protocol
) -> Question | Problem:
    # A column of texts that is named prompt stands in files of other formats too.
    if row.get("reward_model") is not None or isinstance(row.get("prompt"), list):
        return _verl_question(number, row, name, stem)
    text, golden = row.get("question"), row.get("golden_answers")
    problem = check_text(number, "question", text) or check_answers(number, "golden_answers", golden)
    if problem is not None and problem.field in ("question", "golden_answers") and problem.field not in row:
        return replace(problem, reason=f"{problem.reason}; the fields there are {', '.join(row) or 'none'}")
    if problem is not None:
        return problem
    identity = row.get("id", number - 1)
    if isinstance(identity, (dict, list)) or identity is None:
        return Problem(number, "id", "must be a text or a number")
    return Question(
        name or stem,
        str(identity),
        str(text),
        scoring.golden_answers(golden),
        protocol.prompt(str(text)),
    )


def _verl_question(number: int, row: dict[str, Any], name: str | None, stem: str) -> Question | Problem:
    golden, field = get_field(row, "reward_model.ground_truth"), "reward_model.ground_truth"
    if isinstance(golden, dict):
        golden, field = golden.get("target"), f"{field}.target"
    messages: Any = row.get("prompt")
    if (problem := check_answers(number, field, golden)) is not None:
        return problem
    if (problem := message_problem(number, "prompt", messages)) is not None:
        return problem
    messages = text_messages({"role": message["role"], "content": message["content"]} for message in messages)
    source = row.get("data_source") or stem
    if (problem := check_text(number, "data_source", source)) is not None:
        return problem
    extra = row.get("extra_info") or {}
    if not isinstance(extra, dict):
        return Problem(number, "extra_info", "must be an object")
    key = next((key for key in ("id", "index") if extra.get(key) is not None), None)
    identity = number - 1 if key is None else extra[key]
    if isinstance(identity, (dict, list)):
        return Problem(number, f"extra_info.{key}", "must be a text or a number")
    return Question(
        name or source,
        str(identity),
        str(extra.get("question") or messages[-1]["content"]),
        scoring.golden_answers(golden),
        messages,
    )
