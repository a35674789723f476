"""How much evaluations of one system differ: over training runs, or over the seeds of the sampling of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any

from sd_search_verl.evaluation.results import Rows, per_question
from sd_search_verl.evaluation.statistics import mean_and_sd, t_interval, welch_interval

Scores = Mapping[str, Mapping[str, float]]
"""Set -> question -> score."""
Lists = dict[str, list[float]]
"""Set -> scores of its questions, sets without one left out."""


def spread_of(runs: Sequence[Rows], metric: str, compared: Scores) -> dict[str, Any]:
    """Return the macro average of every run, or every seed of a single one, and their mean and sample standard
    deviation, over the compared questions that all of them asked."""
    over, parts = "runs", list(runs)
    if len(runs) == 1:
        seeds = sorted({seed for _, _, seed in runs[0]})
        over = "seeds"
        parts = [{key: row for key, row in runs[0].items() if key[2] == seed} for seed in seeds]
    common = _common([per_question(rows, metric) for rows in parts], compared)
    values = [_macro(part) for part in common if part]
    mean, sd = mean_and_sd(values) if values else (None, None)
    return {"mean": mean, "sd": sd, "values": values, "over": over}


def over_runs(a: Sequence[Rows], b: Sequence[Rows], metric: str, compared: Scores) -> dict[str, Any] | None:
    """Return B - A with its 95 % interval over runs, of every set and of both averages; None with one run on a side.

    Equally many runs are paired in the order in which they are given, each pair over the compared questions that both
    asked: Student's interval of the pairs' differences. Other counts have Welch's, over the questions that all runs
    asked. What a run or pair has no question of is None.

    The interval over questions says what other questions would give; this one, what trainings of other seeds would.
    """
    if min(len(a), len(b)) < 2:
        return None
    before, after = ([per_question(rows, metric) for rows in side] for side in (a, b))
    paired = len(a) == len(b)
    if paired:
        pairs = [_common(pair, compared) for pair in zip(before, after, strict=True)]
        sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    else:
        every = _common([*before, *after], compared)
        sides = [every[: len(a)], every[len(a) :]]

    def interval(average: Callable[[Lists], float], names: Iterable[str]) -> dict[str, float] | None:
        kept = [[{name: run[name] for name in names if name in run} for run in side] for side in sides]
        if not all(chain(*kept)):
            return None
        first, second = ([average(run) for run in side] for side in kept)
        if paired:
            return t_interval([y - x for x, y in zip(first, second, strict=True)]).as_dict()
        return welch_interval(first, second).as_dict()

    sets = {name: interval(_macro, [name]) for name in compared}
    whole = all(sets.values())  # averages over other sets than B - A's would stand beside it
    return {
        "over": f"{len(a)} pairs of runs" if paired else f"{len(a)} and {len(b)} runs",
        "sets": sets,
        "macro": interval(_macro, compared) if whole else None,
        "micro": interval(_micro, compared) if whole else None,
    }


def _common(parts: Sequence[Scores], compared: Scores) -> list[Lists]:
    """Return each part's scores of the compared questions that all of them asked."""
    asked = {
        name: [q for q in questions if all(q in part.get(name, {}) for part in parts)]
        for name, questions in compared.items()
    }
    return [{name: [part[name][q] for q in qs] for name, qs in asked.items() if qs} for part in parts]


def _macro(scores: Lists) -> float:
    return fmean(map(fmean, scores.values()))


def _micro(scores: Lists) -> float:
    return fmean(chain(*scores.values()))
