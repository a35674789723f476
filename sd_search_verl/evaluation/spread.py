"""How much evaluations of one system differ: over training runs, or over the seeds of the sampling of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sd_search_verl.evaluation.results import Rows, per_question
from sd_search_verl.evaluation.statistics import mean_and_sd, t_interval


def spread_of(
    runs: Sequence[Rows], metric: str, compared: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Return the macro average over the compared questions of every run, or every seed of a single one, and their mean
    and sample standard deviation."""
    over, parts = "runs", list(runs)
    if len(runs) == 1:
        seeds = sorted({seed for _, _, seed in runs[0]})
        over = "seeds"
        parts = [{key: row for key, row in runs[0].items() if key[2] == seed} for seed in seeds]
    values = []
    for rows in parts:
        found = per_question(rows, metric)
        asked = {
            name: [found[name][q] for q in qs if q in found[name]]
            for name, qs in compared.items()
            if name in found
        }
        if any(asked.values()):
            values.append(fmean(fmean(scores) for scores in asked.values() if scores))
    mean, sd = mean_and_sd(values)
    return {"mean": mean, "sd": sd, "values": values, "over": over}


def over_pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return B - A with its interval over pairs of runs, in the order in which they are given; None without pairs.

    The interval over questions says what other questions would give; this one, what trainings of other seeds would.
    """
    count = len(a["values"])
    if a["over"] != "runs" or count != len(b["values"]) or count < 2:
        return None
    return t_interval(
        [after - before for before, after in zip(a["values"], b["values"], strict=True)]
    ).as_dict()
