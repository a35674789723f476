"""``sd-search score``: compute EM, F1 and cover-EM of given texts and golden answers, without a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_search_verl import protocol as protocols
from sd_search_verl import scoring
from sd_search_verl.data.jsonl import Problem, check_answers, check_text, get_field, read_objects
from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.config import ScoreFields
from sd_search_verl.evaluation.statistics import bootstrap, macro_average, micro_average, percent
from sd_search_verl.protocol.base import Protocol
from sd_search_verl.table import render

METRICS = {
    "EM": scoring.exact_match,
    "F1": scoring.token_f1,
    "cover-EM": scoring.cover_exact_match,
}

_ASSISTANT = re.compile(
    r"<\|im_start\|>assistant|<\|start_header_id\|>assistant<\|end_header_id\|>|<start_of_turn>model|\[/INST\]"
    r"|<\|assistant\|>|<｜Assistant｜>|^assistant$",
    re.MULTILINE,
)
"""Begin of the assistant's message in ChatML, Llama 3, Gemma, Mistral, Zephyr, DeepSeek and decoded ChatML."""
_EXAMPLE = re.compile(
    r"\b(?:example|instance|e\.g\.|such as|format|like|this)\b[^<\n]{0,40}<answer>[^<]*</answer>"
    r"(?!\s*(?:<[^<>]*>\s*)*\Z)"
    r"|<answer>\s*(?:and|or|\.\.\.|…)\s*</answer>",
    re.IGNORECASE,
)
"""An example answer with the words that introduce it, as in 'For example, <answer> X </answer>', or the bare tags. What
ends the text, but for control tokens, is no example."""


@dataclass
class Scored:
    """Score per row of each metric and set (``sets[name][metric][i]``), rows without an answer, and malformed rows."""

    sets: dict[str, dict[str, list[float]]]
    unanswered: int
    problems: list[Problem]
    there: str = ""
    """Names of the first row's fields, as a sentence for messages."""

    def complaints(self) -> list[str]:
        """Return a line per problem; a single line where all rows failed for one reason."""
        if self.rows == 0 and len({(problem.field, problem.reason) for problem in self.problems}) == 1:
            (*_, last) = self.problems
            return [f"all {len(self.problems)} rows, field {last.field!r}: {last.reason}; {self.there}"]
        return [str(problem) for problem in self.problems]

    @property
    def rows(self) -> int:
        """Number of scored rows."""
        return sum(len(values["EM"]) for values in self.sets.values())


def score_file(path: Path, fields: ScoreFields, protocol: str | None = None) -> Scored:
    """Score every well-formed row of a JSONL file; ``protocol`` None = detected in each text.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    scored = Scored({}, 0, [])
    if isinstance(first := next((row for _, row in read_objects(path)), None), dict):
        scored.there = f"the first row has {', '.join(first)}"
    for row in _rows(path, fields, protocol):
        if isinstance(row, Problem):
            scored.problems.append(row)
            continue
        name, answer, golden = row
        scored.unanswered += answer is None
        values = scored.sets.setdefault(name, {metric: [] for metric in METRICS})
        for metric, function in METRICS.items():
            values[metric].append(function(answer, golden))
    if not scored.rows and not scored.problems:
        raise UserError(f"{path} has no row")
    return scored


def response_of(text: str, protocol: Protocol) -> str:
    """Return ``text`` without its prompt, whose example answer must not be scored.

    The prompt ends after the protocol's instructions, or where a chat template begins the assistant's first message. In
    a text with neither, examples and mentions of the tags are removed.
    """
    if protocol.instructions in text:
        return text.rpartition(protocol.instructions)[2]
    if (begun := _ASSISTANT.search(text)) is not None:
        return text[begun.end() :]
    return _EXAMPLE.sub("", text)


def table(scored: Scored) -> str:
    """Return the mean and interval of every metric, a line per set, and both averages where there are several sets."""
    lines = [["set", "rows", *METRICS]]
    for name, values in scored.sets.items():
        estimates = [bootstrap(values[metric]) for metric in METRICS]
        lines.append([name, str(estimates[0].n), *map(percent, estimates)])
    if len(scored.sets) > 1:
        for label, average in (("macro average", macro_average), ("micro average", micro_average)):
            estimates = [average({n: v[metric] for n, v in scored.sets.items()}) for metric in METRICS]
            lines.append([label, str(scored.rows), *map(percent, estimates)])
    return render(lines)


def _rows(
    path: Path, fields: ScoreFields, protocol: str | None
) -> Iterator[Problem | tuple[str, str | None, list[str]]]:
    """Yield set, answer and golden answers of every row, or its problem."""
    for number, row in read_objects(path):
        if isinstance(row, Problem):
            yield row
            continue
        golden = get_field(row, fields.golden)
        if isinstance(golden, dict):
            golden = golden.get("target")
        problem = check_answers(number, fields.golden, golden)
        name = get_field(row, fields.by) if fields.by else path.name
        if problem is None and fields.by:
            problem = check_text(number, fields.by, name)
        answer = None
        if problem is None:
            answer, problem = _answer(number, row, fields, protocol)
        yield problem or (name, answer, scoring.golden_answers(golden))


def _answer(
    number: int, row: dict[str, Any], fields: ScoreFields, protocol: str | None
) -> tuple[str | None, Problem | None]:
    if fields.answer is not None:
        answer = get_field(row, fields.answer)
        if answer is None and fields.answer in row:
            return None, None
        return answer, check_text(number, fields.answer, answer, free=True)
    text = get_field(row, fields.text)
    if (problem := check_text(number, fields.text, text, free=True)) is not None:
        return None, problem
    found = protocols.get(protocol) if protocol else protocols.detect(text)
    return scoring.extract_answer(response_of(text, found), found.name), None
