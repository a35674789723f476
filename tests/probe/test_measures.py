"""The probe's intervals are Student's over groups, and a verdict is given where groups can carry one."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Sequence

import pytest
import torch

from sd_search_verl.evaluation.statistics import Estimate, t_interval
from sd_search_verl.probe.measures import Measures, labels_of, sign_accuracy, verdict
from sd_search_verl.probe.scores import Reading, ScoredRollout

CONDITIONS = ("true", "flipped", "leave_one_out")
READS = Estimate(1.0, 0.5, 1.5, 8)
MIXES = Estimate(0.6, 0.5, 0.7, 8)


def rollout(query: str, finds: bool, credits: Sequence[float]) -> ScoredRollout:
    """A rollout of one query of one token, with its credit behind each block."""
    readings = {
        name: Reading(torch.tensor([credit]), torch.zeros(1), torch.zeros(1))
        for name, credit in zip(CONDITIONS, credits, strict=True)
    }
    return ScoredRollout("q", finds, [(query, finds, slice(0, 1))], [0], readings)


def group(draw: random.Random, pairs: bool = True) -> list[ScoredRollout]:
    credits = [[draw.gauss(1 if finds else 0, 1) for _ in CONDITIONS] for finds in (True, False)]
    return [rollout("right", True, credits[0]), rollout("wrong", not pairs, credits[1])]


def test_every_interval_is_students_over_groups_within_what_the_number_can_be() -> None:
    draw = random.Random(0)
    groups = [group(draw) for _ in range(7)]
    found = Measures.of(groups)
    labels = [labels_of(one) for one in groups]
    true = [sign_accuracy(one, "true") for one in groups]
    without = [sign_accuracy(one, "leave_one_out") for one in groups]
    gains = [b - a for a, b in zip(true, without, strict=True) if a is not None and b is not None]
    for estimate, values, bounds in (
        (found.label_sensitivity, [value for value, _ in labels], (-math.inf, math.inf)),
        (found.copy_share, [share for _, share in labels], (0, 1)),
        (found.sign_accuracy, [share for share in true if share is not None], (0, 1)),
        (found.leave_one_out_gain, gains, (-1, 1)),
    ):
        assert estimate is not None
        half = 2.447 * statistics.stdev(values) / math.sqrt(7)
        assert estimate.n == 7
        assert estimate.mean == pytest.approx(statistics.fmean(values))
        assert estimate.low == pytest.approx(max(bounds[0], estimate.mean - half), rel=1e-3)
        assert estimate.high == pytest.approx(min(bounds[1], estimate.mean + half), rel=1e-3)
    assert found.sign_accuracy is not None
    assert found.sign_accuracy.high == 1 < t_interval([share for share in true if share is not None]).high


def test_a_single_group_bounds_nothing() -> None:
    """Its numbers are shown; its intervals are all that a number can be, and JSON has null where that has no end."""
    found = Measures.of([group(random.Random(1))])
    as_dict = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert as_dict["label_sensitivity"]["mean"] is not None
    ends = {name: (of["low"], of["high"], of["n"]) for name, of in as_dict.items()}
    assert ends == {
        "label_sensitivity": (None, None, 1),
        "copy_share": (0, 1, 1),
        "sign_accuracy": (0, 1, 1),
        "leave_one_out_gain": (-1, 1, 1),
    }
    short, reasons = verdict(found)
    assert short == "cannot"
    assert "which more groups may settle: score more with --set groups=N" in reasons[0]


def test_groups_without_pairs_have_no_sign_accuracy() -> None:
    found = Measures.of([group(random.Random(seed), pairs=False) for seed in range(3)])
    assert found.sign_accuracy is None
    assert found.as_dict()["sign_accuracy"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert "in what it found: 0; at least 6 are needed" in verdict(found)[1][-1]


@pytest.mark.parametrize("count", [2, 5, 6, 37])
def test_the_sign_counts_with_at_least_six_groups(count: int) -> None:
    """Six of six right happen by chance in 1.6 %, five of five in 3.1 %, though both intervals are a point."""
    sign = t_interval([1.0] * count)
    short, reasons = verdict(Measures(READS, MIXES, sign, sign))
    assert short == ("can" if count >= 6 else "partly")
    said = f": {count}; at least 6 are needed to tell from chance: score more with --set groups=N"
    assert (said in reasons[-1]) == (count < 6)


def test_more_groups_are_asked_for_only_where_the_label_sensitivity_is_open() -> None:
    for low, high, is_open in ((0.0, 0.05, False), (0.05, 0.3, True), (0.2, 0.3, False)):
        labels = Estimate((low + high) / 2, low, high, 8)
        reasons = verdict(Measures(labels, MIXES, None, None))[1]
        assert ("which more groups may settle: score more with --set groups=N" in reasons[0]) == is_open
