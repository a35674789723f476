"""What runs with and without L_SD show beside each other: their paired difference, and a sentence about it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from sd_search_verl.evaluation.statistics import Estimate, signed_percent, t_interval
from sd_search_verl.report import curves
from sd_search_verl.report.run_names import Run, by_series
from sd_search_verl.report.trajectories import question

NAMES = {curves.EM: "exact match", curves.REWARD: "reward"}
"""Metrics that are compared, the first that both runs have."""

Pair = tuple[Run, Run]
"""A GRPO run and the SD-Search run of the same seed."""


def sentences(runs: Sequence[Run]) -> list[str]:
    """Return a sentence per SD-Search series beside the one GRPO series; none for other sets of runs.

    A GRPO run has alpha 0 in every step. Runs are paired by the seed in their names and steps by number, where alpha is
    above 0. The interval is over seeds, as the steps of one run are no repetitions.
    """
    series = by_series(runs)
    baselines = [name for name, members in series.items() if not any(map(distilling_steps, members))]
    if len(baselines) != 1:
        return []
    (baseline,) = baselines
    first = series.pop(baseline)
    return [_sentence(baseline, name, pairs(first, members)) for name, members in series.items()]


def pairs(baseline: Sequence[Run], other: Sequence[Run]) -> list[Pair]:
    """Return the runs of equal seeds."""
    by_seed = {run.seed: run for run in baseline}
    return [(by_seed[run.seed], run) for run in other if run.seed in by_seed]


def distilling_steps(run: Run) -> list[int]:
    """Return the steps with alpha above 0."""
    return [step for step, values in run.metrics.steps.items() if values.get(curves.ALPHA, 0.0) > 0]


def differences(pair: Pair, metric: str) -> list[float]:
    """Return SD-Search minus GRPO in each step with alpha above 0 that both runs have."""
    before, after = (run.metrics.steps for run in pair)
    steps = (
        step for step in distilling_steps(pair[1]) if metric in before.get(step, {}) and metric in after[step]
    )
    return [after[step][metric] - before[step][metric] for step in steps]


def _sentence(baseline: str, name: str, found: Sequence[Pair]) -> str:
    if not found:
        return f"{name} and {baseline} have no seed in common, so there is no paired difference."
    for pair in found:
        if not same_questions(pair):
            return f"{pair[1].name} and {pair[0].name} saw other questions, so there is no paired difference."
    by_metric = ((metric, [differences(pair, metric) for pair in found]) for metric in NAMES)
    metric, values = next(((m, v) for m, v in by_metric if all(v)), (None, []))
    if metric is None:
        return (
            f"{name} and {baseline} have no step with α above 0 in common, so there is no paired difference."
        )
    means = [statistics.fmean(of_seed) for of_seed in values]
    if len(means) == 1:
        shown = f"{100 * means[0]:+.1f} points over {len(values[0])} steps of one seed; "
        shown += "another seed may show the opposite"
    else:
        estimate = t_interval(means)
        shown = f"{signed_percent(estimate)} points over {len(means)} seeds: {_verdict(estimate)}"
    about = f"{NAMES[metric].capitalize()} of training rollouts while α is above 0, {name} minus {baseline}, paired"
    return f"{about}: {shown}."


def _verdict(estimate: Estimate) -> str:
    if estimate.low > 0:
        return "SD-Search is higher, the 95 % interval is above 0"
    if estimate.high < 0:
        return "SD-Search is lower, the 95 % interval is below 0"
    return "the 95 % interval contains 0, so these runs do not show which is higher"


def same_questions(pair: Pair) -> bool:
    """Return whether the traces of the first step that both recorded share a question; True without such a step."""
    steps = [{ref.step for ref in run.traces.refs} for run in pair]
    common = steps[0] & steps[1]
    if not common:
        return True
    one, other = (_questions(run, min(common)) for run in pair)
    return bool(one & other)


def _questions(run: Run, step: int) -> set[str]:
    return {
        question(trace.prompt)
        for trace in run.traces.load([ref for ref in run.traces.refs if ref.step == step])
    }
