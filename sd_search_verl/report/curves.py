"""Data for the plots: a line per series and metric, with a band over the seeds of a series."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sd_search_verl.report.run_names import Run, by_series

ALPHA = "sd_search/alpha"
REWARD = "critic/score/mean"
EM = "search/em"
_PREFIXES = ("sd_search/", "search/", "health/")
_VALIDATION = re.compile(r"val-(?:core|aux)/(?P<set>.+)/(?P<value>[^/]+)/(?P<mean>mean@\d+)")
_FAILED = "val-aux/failed_sessions"


@dataclass(frozen=True)
class Panel:
    """One plot. ``metrics`` maps the label of each line to the metric's name."""

    title: str
    help: str
    metrics: dict[str, str]


SECTIONS: dict[str, list[Panel]] = {
    "Learning": [
        Panel("Reward", "Mean reward of the step's training rollouts.", {"reward": REWARD}),
        Panel("Exact match", "Share of training rollouts whose answer equals a golden answer.", {"EM": EM}),
        Panel("Token F1", "Mean token F1 of the training rollouts' answers.", {"F1": "search/f1"}),
        Panel(
            "Response length",
            "Mean tokens of a response, documents included.",
            {"tokens": "response_length/mean"},
        ),
    ],
    "Distillation": [
        Panel(
            "JSD",
            "Divergence of teacher and student at query tokens; none while α is 0.",
            {"JSD": "sd_search/jsd"},
        ),
        Panel(
            "Entropy gap", "Student minus teacher at query tokens, in nats.", {"gap": "sd_search/entropy_gap"}
        ),
        Panel(
            "Entropy at query tokens",
            "Of the next-token distribution, in nats.",
            {"teacher": "sd_search/teacher_entropy", "student": "sd_search/student_entropy"},
        ),
        Panel(
            "Top-1 agreement",
            "Share of query tokens where teacher and student have the same likeliest token.",
            {"agreement": "sd_search/teacher_student_top1"},
        ),
        Panel(
            "Label sensitivity",
            "What inverting every label of the block changes in the credit of sampled query tokens, in nats.",
            {"sensitivity": "sd_search/label_sensitivity"},
        ),
        Panel(
            "Copy share",
            "Share of the teacher's credit that stays when every label is inverted: copying.",
            {"share": "sd_search/copy_share"},
        ),
        Panel(
            "Homogeneous groups",
            "Share of groups whose rollouts all end alike: no contrast for GRPO, little for the teacher.",
            {
                "all": "sd_search/homogeneous_groups",
                "all correct": "sd_search/all_correct_groups",
                "all incorrect": "sd_search/all_incorrect_groups",
            },
        ),
    ],
    "Search": [
        Panel("Searches per rollout", "Executed searches.", {"searches": "search/searches_per_rollout"}),
        Panel(
            "Distinct queries per group",
            "Over all its rollouts.",
            {"queries": "search/distinct_queries_per_group"},
        ),
        Panel(
            "Gold in documents",
            "Share of searches that return a golden answer.",
            {"gold": "search/gold_in_documents"},
        ),
        Panel("Failed searches", "Searches of the step that got no reply.", {"failures": "search/failures"}),
        Panel(
            "Malformed turns", "Turns of the step without a valid action.", {"malformed": "search/malformed"}
        ),
    ],
    "Optimisation": [
        Panel("Policy entropy", "Mean over response tokens, in nats.", {"entropy": "actor/entropy"}),
        Panel("Gradient norm", "Before clipping.", {"norm": "actor/grad_norm"}),
    ],
    "Health": [
        Panel(
            "Likelihood of CORRECT rollouts",
            "Mean log-prob of a policy token in them, in nats; sinks before reward does.",
            {"log-prob": "health/correct_log_prob"},
        ),
        Panel(
            "Alarms",
            "How many are on; the section health of the config says when.",
            {"alarms": "health/alarms"},
        ),
        Panel(
            "Lost rollouts",
            "Missing from their groups: the agent loop or the reward function raised.",
            {"lost": "health/missing_rollouts"},
        ),
    ],
}


def build(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the data of the plots.

    Returns:
        ``series`` (names), ``sections`` of panels with lines, ``first`` and ``last`` step, ``warmup`` (shaded
        step ranges), ``absent`` (titles of panels that no run has values for).
    """
    series = by_series(runs)
    sections, absent = [], []
    names = {name for run in runs for values in run.metrics.steps.values() for name in values}
    found = {"Validation": _validation(names), "More": _more(names), "Time": _timings(names)}
    for title, panels in (SECTIONS | found).items():
        drawn = []
        for panel in panels:
            lines = [
                {"series": number, "label": label, **line}
                for label, metric in panel.metrics.items()
                for number, members in enumerate(series.values())
                if (line := _line(members, metric))
            ]
            if lines:
                drawn.append(
                    {"title": panel.title, "help": panel.help, "metrics": panel.metrics, "lines": lines}
                )
            else:
                absent.append(panel.title)
        if drawn:
            sections.append({"title": title, "panels": drawn})
    return {
        "series": [{"name": name, "seeds": len(members)} for name, members in series.items()],
        "sections": sections,
        "first": min(step for run in runs for step in run.metrics.steps),
        "last": max(step for run in runs for step in run.metrics.steps),
        "warmup": warmup(runs),
        "absent": absent,
    }


def warmup(runs: Sequence[Run]) -> list[list[int]]:
    """Return the step ranges, ends included, in which a distilling run (or every run, if none distils) has alpha 0."""
    alphas = [{step: values.get(ALPHA) for step, values in run.metrics.steps.items()} for run in runs]
    distilling = [by_step for by_step in alphas if any(by_step.values())]
    zero = sorted({step for by_step in distilling or alphas for step, alpha in by_step.items() if alpha == 0})
    ranges: list[list[int]] = []
    for step in zero:
        if ranges and ranges[-1][1] == step - 1:
            ranges[-1][1] = step
        else:
            ranges.append([step, step])
    return ranges


def non_finite(run: Run) -> list[str]:
    """Return a sentence per plotted metric that was NaN or infinite."""
    found = []
    for metric in _drawn():
        steps = [s for s, values in run.metrics.steps.items() if not math.isfinite(values.get(metric, 0.0))]
        if steps:
            found.append(f"{metric} is not finite in {len(steps)} step(s), first in step {steps[0]}")
    return found


def _drawn() -> list[str]:
    """Return the metrics of all panels, in order."""
    return [metric for panels in SECTIONS.values() for panel in panels for metric in panel.metrics.values()]


def _more(names: Iterable[str]) -> list[Panel]:
    """Return panels for the plugin's metrics that no section names, one for each family ``a/b/*``."""
    named = {ALPHA, *_drawn()}
    families: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        if name.startswith(_PREFIXES) and name not in named:
            family = name.rpartition("/")[0] if name.count("/") > 1 else name
            families.setdefault(family, {})[name.removeprefix(f"{family}/")] = name
    return [Panel(family, f"The metric {family}.", metrics) for family, metrics in families.items()]


def _validation(names: Iterable[str]) -> list[Panel]:
    """Return a panel for the means of each question set that verl validates on."""
    sets: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        if found := _VALIDATION.fullmatch(name):
            label = f"{found['value']} {found['mean']}".removesuffix(" mean@1")
            sets.setdefault(found["set"], {})[label] = name
    panels = [Panel(name, f"Validation on {name}.", metrics) for name, metrics in sets.items()]
    help_ = "Validation rollouts that were lost; they count as wrong."
    return [*panels, Panel("Failed sessions", help_, {"failed": _FAILED})] if _FAILED in names else panels


def _timings(names: Iterable[str]) -> list[Panel]:
    timings = sorted((n for n in names if n.startswith("timing_s/")), key=lambda n: (n != "timing_s/step", n))
    return [Panel(name.removeprefix("timing_s/"), "Seconds.", {"seconds": name}) for name in timings]


def _line(members: Sequence[Run], metric: str) -> dict[str, Any] | None:
    """Return mean, lowest and highest over the seeds that have the step; None without any value."""
    values: dict[int, list[float]] = {}
    for run in members:
        for step, row in run.metrics.steps.items():
            if math.isfinite(value := row.get(metric, math.nan)):
                values.setdefault(step, []).append(value)
    if not values:
        return None
    first, last = min(values), max(values)
    found = [values.get(step) for step in range(first, last + 1)]
    line: dict[str, Any] = {"first": first, "mean": [_short(sum(v) / len(v)) if v else None for v in found]}
    if len(members) > 1:
        line["low"] = [_short(min(v)) if v else None for v in found]
        line["high"] = [_short(max(v)) if v else None for v in found]
        line["seeds"] = [len(v) if v else 0 for v in found]
    return line


def _short(value: float) -> float:
    return float(f"{value:.6g}")
