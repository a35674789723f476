"""How much evaluations of one system differ: over training runs, or over the seeds of the sampling of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sd_search_verl.evaluation.results import Rows, per_question
from sd_search_verl.evaluation.statistics import mean_and_sd, t_interval

Scores = Mapping[str, Mapping[str, float]]
"""Set -> question -> score."""


def spread_of(runs: Sequence[Rows], metric: str, compared: Scores) -> dict[str, Any]:
    """Return the macro average of every run, or every seed of a single one, and their mean and sample standard
    deviation, over the compared questions that all of them asked."""
    over, parts = "runs", list(runs)
    if len(runs) == 1:
        seeds = sorted({seed for _, _, seed in runs[0]})
        over = "seeds"
        parts = [{key: row for key, row in runs[0].items() if key[2] == seed} for seed in seeds]
    values = _macro_averages([per_question(rows, metric) for rows in parts], compared)
    mean, sd = mean_and_sd(values) if values else (None, None)
    return {"mean": mean, "sd": sd, "values": values, "over": over}


def over_pairs(a: Sequence[Rows], b: Sequence[Rows], metric: str, compared: Scores) -> dict[str, Any] | None:
    """Return B - A with its interval over pairs of runs, in the order in which they are given; None without pairs.

    Each pair's difference is over the compared questions that both of its runs asked. The interval over questions says
    what other questions would give; this one, what trainings of other seeds would.
    """
    if len(a) != len(b) or len(a) < 2:
        return None
    averages = [
        _macro_averages([per_question(one, metric), per_question(other, metric)], compared)
        for one, other in zip(a, b, strict=True)
    ]
    if not all(averages):
        return None
    return t_interval([after - before for before, after in averages]).as_dict()


def _macro_averages(parts: Sequence[Scores], compared: Scores) -> list[float]:
    """Return the macro average of each part over the compared questions that all of them asked; none without one."""
    asked = {
        name: [q for q in questions if all(q in part.get(name, {}) for part in parts)]
        for name, questions in compared.items()
    }
    if not any(asked.values()):
        return []
    return [fmean(fmean(part[name][q] for q in qs) for name, qs in asked.items() if qs) for part in parts]
