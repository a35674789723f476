"""``results.json``: metrics computed from trajectories alone, so that equal trajectories give an equal file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from sd_search_verl.evaluation.statistics import (
    Estimate,
    bootstrap,
    macro_average,
    mean_and_sd,
    micro_average,
    percent,
)
from sd_search_verl.evaluation.trajectories import Key
from sd_search_verl.table import render

METRICS = {"em": "EM", "f1": "F1", "cover_em": "cover-EM"}
Rows = Mapping[Key, Mapping[str, Any]]

RATES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "searches_per_question": lambda row: len(row["latencies_s"]),
    "any_gold": lambda row: any(row["gold_in_documents"]),
    "malformed": lambda row: sum(row["malformed"].values()) > 0,
    "truncated_observations": lambda row: row["truncated_observations"] > 0,
    "truncated_prompts": lambda row: row["truncated_prompt"],
    "no_answer": lambda row: row["answer"] is None,
    "turn_limit": lambda row: row["status"] == "turn_limit",
    "context_overflow": lambda row: row["status"] == "context_overflow",
    "search_failed": lambda row: row["failures"] > 0,
}
"""Value of each rollout; a set's rate is their mean, so all but the first are shares of rollouts."""

LIMITS = {
    "truncated_prompts": "of the prompts lost their start (max_prompt_tokens)",
    "context_overflow": "ran out of room (max_response_tokens)",
    "turn_limit": "were still searching after the last turn (search.max_turns)",
}
"""Rates of rollouts that met a limit; the table names them where they are not 0."""


def per_question(rows: Rows, metric: str) -> dict[str, dict[str, float]]:
    """Return set -> question id -> mean of the metric over seeds, in the order of the rows."""
    values: dict[str, dict[str, list[float]]] = {}
    for (name, question, _), row in rows.items():
        values.setdefault(name, {}).setdefault(question, []).append(row[metric])
    return {name: {q: fmean(scores) for q, scores in of_set.items()} for name, of_set in values.items()}


def summarize(rows: Rows) -> dict[str, Any]:
    """Return every metric per set with its interval, both averages, rates, and the spread over seeds.

    Args:
        rows: trajectories in the order of the questions, on which the bootstrap's result depends.
    """
    metrics = {metric: per_question(rows, metric) for metric in METRICS}
    summary: dict[str, Any] = {"sets": {}}
    for name in metrics["em"]:
        of_set = [row for key, row in rows.items() if key[0] == name]
        summary["sets"][name] = {
            "questions": len(metrics["em"][name]),
            **{metric: bootstrap(list(v[name].values())).as_dict() for metric, v in metrics.items()},
            **{rate: fmean(float(of(row)) for row in of_set) for rate, of in RATES.items()},
        }
    for label, average in (("macro", macro_average), ("micro", micro_average)):
        summary[label] = {
            metric: average({name: list(v.values()) for name, v in values.items()}).as_dict()
            for metric, values in metrics.items()
        }
    summary["seeds"] = _over_seeds(rows)
    return summary


def timing(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return latencies in s per question, others running beside it, and per search; no second run repeats them."""
    questions, searches = [], []
    for row in rows:
        questions.append(row["latency_s"])
        searches += row["latencies_s"]
    return {
        f"{name}_latency_s_p{quantile}": round(float(np.percentile(values, quantile)), 4)
        for name, values in (("question", questions), ("search", searches))
        if values
        for quantile in (50, 99)
    }


def latency_line(found: Mapping[str, float]) -> str:
    """Return one line about :func:`timing`."""
    return "latency, median (99th percentile): " + ", ".join(
        f"{found[f'{name}_latency_s_p50']:.3g} s ({found[f'{name}_latency_s_p99']:.3g} s) a {name}"
        for name in ("question", "search")
        if f"{name}_latency_s_p50" in found
    )


def table(summary: Mapping[str, Any]) -> str:
    """Return the summary as text: a line per set, both averages, and mean and s.d. over several seeds."""
    head = [
        "set",
        "n",
        *METRICS.values(),
        "searches",
        "any gold",
        "malformed",
        "cut",
        "no answer",
        "failed",
    ]
    lines = [head]
    rates = ("any_gold", "malformed", "truncated_observations", "no_answer", "search_failed")
    for name, of_set in summary["sets"].items():
        lines.append(
            [
                name,
                str(of_set["questions"]),
                *(percent(Estimate(**of_set[metric])) for metric in METRICS),
                f"{of_set['searches_per_question']:.2f}",
                *(f"{100 * of_set[rate]:.1f}" for rate in rates),
            ]
        )
    total = str(sum(of_set["questions"] for of_set in summary["sets"].values()))
    if len(summary["sets"]) > 1:
        for label in ("macro", "micro"):
            cells = [percent(Estimate(**summary[label][metric])) for metric in METRICS]
            lines.append([f"{label} average", total, *cells, *[""] * (len(head) - 2 - len(cells))])
    notes = [
        "%, with 95% bootstrap intervals; any gold (in documents), malformed, cut (an observation), no answer, "
        "failed (a search): % of rollouts"
    ]
    notes += [
        f"{name}: {100 * of_set[rate]:.1f} % {text}"
        for name, of_set in summary["sets"].items()
        for rate, text in LIMITS.items()
        if of_set[rate] > 0
    ]
    if len(summary["seeds"]["em"]["values"]) > 1:
        notes += [_seeds_line(label, summary["seeds"][metric]) for metric, label in METRICS.items()]
    return "\n".join([render(lines), *notes])


def _seeds_line(label: str, seeds: Mapping[str, Any]) -> str:
    """Return a line such as ``EM, macro average over 3 seeds: 42.0 ± 0.8``."""
    return (
        f"{label}, macro average over {len(seeds['values'])} seeds: "
        f"{100 * seeds['mean']:.1f} ± {100 * (seeds['sd'] or 0.0):.1f} (s.d.)"
    )


def _over_seeds(rows: Rows) -> dict[str, Any]:
    """Return the macro average of each seed, their mean and sample standard deviation, for every metric."""
    found: dict[str, Any] = {}
    for metric in METRICS:
        by_seed: dict[int, dict[str, list[float]]] = {}
        for (name, _, seed), row in rows.items():
            by_seed.setdefault(seed, {}).setdefault(name, []).append(row[metric])
        averages = [fmean(map(fmean, sets.values())) for sets in by_seed.values()]
        mean, sd = mean_and_sd(averages)
        found[metric] = {
            "mean": mean,
            "sd": sd,
            "values": dict(zip(map(str, by_seed), averages, strict=True)),
        }
    return found


def ordered(rows: Rows, keys: Sequence[Key]) -> dict[Key, Mapping[str, Any]]:
    """Return the rows of ``keys``, in the order of ``keys``."""
    return {key: rows[key] for key in keys}
