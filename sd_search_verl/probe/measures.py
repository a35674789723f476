"""The four numbers of the probe, each a mean over groups with Student's 95 % interval, and the verdict.

label sensitivity   of a group's rollouts, as :mod:`sd_search_verl.distill.labels` defines it.
copy share          of a group's query tokens, defined there too.
sign accuracy       share of pairs of different queries of two rollouts, asked after equal earlier ones, in which a
                    query whose documents hold a golden answer has more credit a token than one whose do not; a tie,
                    as of a policy that the block does not change, counts half.
                    The former is its rollout's last: what an earlier query finds is often there by accident.
leave-one-out gain  sign accuracy of the teacher that does not see the scored rollout's own line, minus that.

Intervals end where the number does: shares at 0 and 1, the gain at -1 and 1. A single group says nothing of others:
its interval is all that the number can be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from sd_search_verl.distill.labels import label_measures, label_sums
from sd_search_verl.evaluation.statistics import Estimate, t_interval
from sd_search_verl.probe.conditions import FLIPPED, LEAVE_ONE_OUT, TRUE
from sd_search_verl.probe.scores import ScoredRollout

ScoredGroup = Sequence[ScoredRollout]

READS_LABELS = 0.1
"""Nats a token: a teacher whose label sensitivity is surely above reads labels; docs/probe.md has the data."""
MOSTLY_COPIES = 0.9
"""A teacher whose copy share is surely above does little else than copy."""
LEAST_GROUPS = 6
"""Groups with pairs that a sign accuracy is judged from: six of six are right by chance in 2^-6 = 1.6 %."""
MORE = "score more with --set groups=N, or give a larger file"


@dataclass(frozen=True)
class Measures:
    """The four numbers; None where no group has what a number needs."""

    label_sensitivity: Estimate | None
    copy_share: Estimate | None
    sign_accuracy: Estimate | None
    leave_one_out_gain: Estimate | None

    @classmethod
    def of(cls, groups: Sequence[ScoredGroup]) -> Measures:
        """Compute the numbers of scored groups."""
        true = [sign_accuracy(group, TRUE) for group in groups]
        without = [sign_accuracy(group, LEAVE_ONE_OUT) for group in groups]
        gains = [b - a for a, b in zip(true, without, strict=True) if a is not None and b is not None]
        labels = [labels_of(group) for group in groups if group]
        return cls(
            _estimate(sensitivity for sensitivity, _ in labels),
            _estimate((share for _, share in labels), 0.0, 1.0),
            _estimate((share for share in true if share is not None), 0.0, 1.0),
            _estimate(gains, -1.0, 1.0),
        )

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """Return each number as ``{mean, low, high, n}``, for JSON; None for an end that lies at infinity."""
        nothing = Estimate(math.nan, math.nan, math.nan, 0)
        return {
            name: {key: x if math.isfinite(x) else None for key, x in (value or nothing).as_dict().items()}
            for name, value in vars(self).items()
        }


def labels_of(group: ScoredGroup) -> tuple[float, float]:
    """Return a group's label sensitivity in nats a token, and its copy share in [0, 1]."""
    true, flipped = ([rollout.readings[name].credit for rollout in group] for name in (TRUE, FLIPPED))
    credit = torch.cat(true)
    counts = torch.tensor([len(values) for values in true])
    correct = torch.tensor([rollout.correct for rollout in group])
    return label_measures(label_sums(credit, credit - torch.cat(flipped), counts, correct))


def sign_accuracy(group: ScoredGroup, condition: str) -> float | None:
    """Return the share of a group's pairs with the right order, a tie as half of one; None without a pair."""
    ordered = [(finds > misses) + 0.5 * (finds == misses) for finds, misses in _pairs(group, condition)]
    return fmean(ordered) if ordered else None


def _pairs(group: ScoredGroup, condition: str) -> Iterator[tuple[float, float]]:
    """Yield the credits a token of a query that finds a golden answer, and of a sibling's that does not."""
    for one in group:
        place = len(one.queries) - 1
        text, finds, at = one.queries[place]
        earlier = [asked for asked, _, _ in one.queries[:place]]
        for other in group if finds else ():
            if [asked for asked, _, _ in other.queries[:place]] != earlier or len(other.queries) <= place:
                continue
            sibling, also, there = other.queries[place]
            if not also and text != sibling:
                credits = one.readings[condition].credit, other.readings[condition].credit
                yield float(credits[0][at].mean()), float(credits[1][there].mean())


def _estimate(values: Iterable[float], least: float = -math.inf, most: float = math.inf) -> Estimate | None:
    """Return the mean over groups with its interval, within the bounds of the number; None without a group."""
    found = [*values]
    if len(found) < 2:
        return Estimate(found[0], least, most, 1) if found else None
    estimate = t_interval(found)
    return replace(estimate, low=max(least, estimate.low), high=min(most, estimate.high))


def verdict(found: Measures) -> tuple[str, list[str]]:
    """Return ``cannot``, ``partly`` or ``can``, and a sentence for each number that decides it."""
    labels, copies, sign = found.label_sensitivity, found.copy_share, found.sign_accuracy
    if labels is None or copies is None:
        return "cannot", ["no rollout has a query to score"]
    reads = labels.low > READS_LABELS
    reasons = [
        f"flipping every label changes its credit by {labels.mean:+.3f} nats a token "
        f"[{labels.low:+.3f}, {labels.high:+.3f}]; reading them takes more than {READS_LABELS:g}"
        + (f", which more groups may settle: {MORE}" if not reads and labels.high > READS_LABELS else ""),
        f"{copies.mean:.0%} [{copies.low:.0%}, {copies.high:.0%}] of its credit stays when all labels are flipped: "
        f"copying; above {MOSTLY_COPIES:.0%} there is little else",
    ]
    pairs = sign.n if sign else 0
    if sign:
        reasons.append(
            f"the query that finds the answer gets more credit in {sign.mean:.0%} [{sign.low:.0%}, {sign.high:.0%}] "
            f"of {sign.n} groups' pairs; chance is 50%"
        )
    if pairs < LEAST_GROUPS:
        reasons.append(
            f"groups with two rollouts that differ in a query and in what it found: {pairs}; "
            f"at least {LEAST_GROUPS} are needed to tell from chance: {MORE}"
        )
    right = sign is not None and sign.n >= LEAST_GROUPS and sign.low > 0.5
    if not reads:
        return "cannot", reasons
    return ("can" if right and copies.low <= MOSTLY_COPIES else "partly"), reasons


SENTENCES = {
    "cannot": "cannot be its own teacher",
    "partly": "can partly be its own teacher",
    "can": "can be its own teacher",
}


def describe(groups: Sequence[ScoredGroup]) -> dict[str, dict[str, Any]]:
    """Return of every condition the means over rollouts of divergence, entropy gap and credit by outcome."""
    rollouts = [rollout for group in groups for rollout in group]
    table: dict[str, dict[str, Any]] = {}
    for name in rollouts[0].readings if rollouts else ():
        readings = [(rollout.correct, rollout.readings[name]) for rollout in rollouts]
        table[name] = {
            "jsd": fmean(float(reading.divergence.mean()) for _, reading in readings),
            "entropy_gap": fmean(float(reading.entropy_gap.mean()) for _, reading in readings),
            "credit_correct": _mean(float(reading.credit.mean()) for ok, reading in readings if ok),
            "credit_incorrect": _mean(float(reading.credit.mean()) for ok, reading in readings if not ok),
        }
    return table


def _mean(values: Iterable[float]) -> float | None:
    found = [*values]
    return fmean(found) if found else None
