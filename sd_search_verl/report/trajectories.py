"""Data for the trajectory viewer: recorded rollouts, with every text that repeats held once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from sd_search_verl.report.run_names import Run
from sd_search_verl.report.segments import Segment, segments
from sd_search_verl.runs.reader import TraceRef
from sd_search_verl.runs.schema import Trace
from sd_search_verl.scoring import contains_answer

_QUESTION = re.compile(r".*Question:\s*", re.DOTALL)
_PLACED = {"step", "group", "prompt", "golden_answers"} | {
    *("response", "tokens", "mask", "spans", "credit", "divergence"),
    *("queries", "answer", "em", "f1", "score", "status", "blocks"),
}
"""Fields of a trace that have a place of their own on the page; all others are listed under the response."""


def build(runs: Sequence[Run], limit: int) -> dict[str, Any]:
    """Return up to ``limit`` rollouts over all runs, in whole groups spread evenly over the steps.

    Returns:
        ``recorded`` (how many there are in the files), ``credit`` (the size that gets the full shade; None when no
        token has a credit), ``texts`` (shared texts), ``groups`` and ``rollouts``. A number where a text could
        stand is an index into ``texts``.
    """
    shared = _Texts()
    groups: list[dict[str, Any]] = []
    rollouts: list[dict[str, Any]] = []
    recorded = sum(len(run.traces.refs) for run in runs)
    for number, run in enumerate(runs):
        chosen = _spread(_whole_groups(run.traces.refs), recorded, limit)
        places: dict[tuple[int, str], int] = {}
        for trace in run.traces.load(chosen):
            key = (trace.step, trace.group)
            if key not in places:
                places[key] = len(groups)
                groups.append(_group(trace, number, shared))
            rollouts.append(_rollout(trace, places[key], shared))
    return {
        "recorded": recorded,
        "credit": _credit_scale(rollouts),
        "texts": shared.texts,
        "groups": groups,
        "rollouts": rollouts,
    }


def question(messages: Sequence[dict[str, Any]]) -> str:
    """Return the question of a prompt: the text after its last ``Question:``, or the last user message."""
    users = [str(message.get("content", "")) for message in messages if message.get("role") == "user"]
    return _QUESTION.sub("", users[-1], count=1).strip() if users else ""


class _Texts:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def add(self, text: str) -> int:
        if text not in self._places:
            self._places[text] = len(self.texts)
            self.texts.append(text)
        return self._places[text]


def _whole_groups(refs: Sequence[TraceRef]) -> list[list[TraceRef]]:
    groups: dict[tuple[int, str], list[TraceRef]] = {}
    for ref in refs:
        groups.setdefault((ref.step, ref.group), []).append(ref)
    return list(groups.values())


def _spread(groups: Sequence[list[TraceRef]], recorded: int, limit: int) -> list[TraceRef]:
    """Return every k-th group, with k as ``limit`` asks for."""
    count = len(groups) if recorded <= limit else len(groups) * limit // recorded
    return [ref for i in range(count) for ref in groups[i * len(groups) // count]]


def _group(trace: Trace, run: int, shared: _Texts) -> dict[str, Any]:
    return {
        "run": run,
        "step": trace.step,
        "question": question(trace.prompt),
        "prompt": [[str(m.get("role", "")), shared.add(str(m.get("content", "")))] for m in trace.prompt],
        "golden": trace.golden_answers,
    }


def _rollout(trace: Trace, group: int, shared: _Texts) -> dict[str, Any]:
    return {
        "group": group,
        "parts": [_part(segment, shared, trace.golden_answers) for segment in segments(trace)],
        "queries": trace.queries,
        "answer": trace.answer,
        "em": _finite(trace.em),
        "f1": _finite(trace.f1),
        "score": _finite(trace.score),
        "status": trace.status,
        "blocks": [shared.add(block) for block in trace.blocks],
        "more": {
            name: _text(value) for name, value in trace if name not in _PLACED and value not in ("", [])
        },
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _part(segment: Segment, shared: _Texts, golden: Sequence[str]) -> Segment:
    """Return a segment without infinite numbers, and with the index of its text where that is the environment's.

    Documents are followed by whether a golden answer stands in them: a search that failed shows none, and one call may
    search several times, so an entry of ``gold_in_documents`` has no place of its own here.
    """
    kind, content, *values = segment
    if kind == "documents":
        return kind, shared.add(content), contains_answer([content], golden)
    if kind in ("result", "notice"):
        return kind, shared.add(content)
    return kind, content, *(of and [_finite(value) for value in of] for of in values)


def _credit_scale(rollouts: Sequence[dict[str, Any]]) -> float | None:
    """Return the 95th percentile of the absolute credits: a few extreme tokens must not make all others pale."""
    sizes = sorted(
        abs(value)
        for rollout in rollouts
        for part in rollout["parts"]
        if part[0] == "query" and part[2]
        for value in part[2]
        if value is not None
    )
    return (sizes[int(0.95 * (len(sizes) - 1))] or sizes[-1]) if sizes else None


def _finite(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(f"{value:.4g}") if number and math.isfinite(value) else None
