"""The table of a comparison: every arm against the baseline, paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.world.arms import BASELINE
from benchmarks.world.experiment import EvaluationRow
from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.statistics import t_interval
from sd_search_verl.table import render

EARLY = 840
"""Rollouts after which p(right phrasing) is compared, while it still rises."""
HALF = 0.5

Curves = dict[str, dict[int, list[EvaluationRow]]]
"""Arm -> seed -> its rows in the order of steps."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and half the width of its 95 % t interval (nan for one seed).

    The mean is nan where a run has no such value.
    """

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return self.mean + self.half_width

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        spread = "" if math.isnan(self.half_width) else f" ± {self.half_width:.3f}"
        return f"{self.mean:.3f}{spread}"


@dataclass(frozen=True)
class Summary:
    """One arm.

    Attributes:
        to_half: median over seeds of the rollouts until half of the held-out questions succeed; inf = most never.
        ratio: median over seeds of baseline's / this arm's; 0 where this arm never gets there.
        log_ratio: of its logarithm, rollouts to half taken as the run's length where they are more.
        faster: seeds in which this arm gets there first.
        early: p(right phrasing) after ``EARLY`` rollouts.
        early_gain: the same minus the baseline's, paired.
        higher: seeds in which it is higher than the baseline's.
        gap: teacher's minus student's p(right phrasing) over the first ``EARLY`` rollouts; None without a teacher.
        final: held-out success at the end.
        final_gain: the same minus the baseline's, paired.
        worst: the lowest of the seeds' ``final``.
    """

    arm: str
    seeds: int
    to_half: float
    ratio: float
    log_ratio: Interval
    faster: int
    early: Interval
    early_gain: Interval
    higher: int
    gap: Interval | None
    final: Interval
    final_gain: Interval
    worst: float


def curves(rows: Sequence[EvaluationRow]) -> Curves:
    """Return rows by arm and seed."""
    found: Curves = {}
    for row in sorted(rows, key=lambda row: row.step):
        found.setdefault(row.arm, {}).setdefault(row.seed, []).append(row)
    return dict(sorted(found.items(), key=lambda item: [row.arm for row in rows].index(item[0])))


def summarize(rows: Sequence[EvaluationRow], baseline: str = BASELINE) -> list[Summary]:
    """Return one summary per arm, over the seeds that the baseline arm has too.

    Raises:
        UserError: no baseline, or an arm without a seed in common with it.
    """
    by_arm = curves(rows)
    if baseline not in by_arm:
        raise UserError(f"there is no {baseline} run to compare with")
    return [_summary(arm, by_arm[arm], by_arm[baseline]) for arm in by_arm]


def table(summaries: Sequence[Summary], baseline: str = BASELINE) -> str:
    """Return the summaries as a table for the terminal."""
    head = ["arm", "seeds", "rollouts to 50 %", "ratio", "95 %", "faster", f"p(right) at {EARLY}"]
    head += ["gain", "higher", "teacher - student", "final success", "worst"]
    lines = [head]
    for s in summaries:
        base = s.arm == baseline
        lines.append(
            [
                s.arm,
                str(s.seeds),
                f"{s.to_half:.0f}" if math.isfinite(s.to_half) else "never",
                "" if base else f"{s.ratio:.2f}",
                "" if base else f"{math.exp(s.log_ratio.low):.2f}-{math.exp(s.log_ratio.high):.2f}",
                "" if base else f"{s.faster}/{s.seeds}",
                str(s.early),
                "" if base else str(s.early_gain),
                "" if base or math.isnan(s.early_gain.mean) else f"{s.higher}/{s.seeds}",
                "" if s.gap is None else str(s.gap),
                str(s.final),
                f"{s.worst:.2f}",
            ]
        )
    return render(lines)


def rollouts_to(rows: Sequence[EvaluationRow], success: float) -> float:
    """Return the rollouts until held-out success first reaches a level, linear between evaluations; inf if never."""
    before: EvaluationRow | None = None
    for row in rows:
        if row.success >= success:
            if before is None:
                return float(row.rollouts)
            share = (success - before.success) / (row.success - before.success)
            return before.rollouts + share * (row.rollouts - before.rollouts)
        before = row
    return math.inf


def p_right_at(rows: Sequence[EvaluationRow], rollouts: int) -> float:
    """Return p(right phrasing) after so many rollouts, linear between evaluations; nan if the run was shorter."""
    for before, row in pairwise(rows):
        if before.rollouts <= rollouts <= row.rollouts:
            share = (rollouts - before.rollouts) / (row.rollouts - before.rollouts)
            return before.p_right + share * (row.p_right - before.p_right)
    return math.nan


def interval(values: Sequence[float]) -> Interval:
    """Return the mean and 95 % t interval over seeds; nan where one of them is."""
    if len(values) < 2 or any(map(math.isnan, values)):
        return Interval(statistics.fmean(values), math.nan)
    found = t_interval(values)
    return Interval(found.mean, (found.high - found.low) / 2)


def _summary(
    arm: str, runs: dict[int, list[EvaluationRow]], baseline: dict[int, list[EvaluationRow]]
) -> Summary:
    seeds = sorted(set(runs) & set(baseline))
    if not seeds:
        raise UserError(f"{arm} has no seed in common with the baseline")
    ours = {seed: rollouts_to(runs[seed], HALF) for seed in seeds}
    theirs = {seed: rollouts_to(baseline[seed], HALF) for seed in seeds}
    early = {seed: p_right_at(runs[seed], EARLY) for seed in seeds}
    gains = [early[seed] - p_right_at(baseline[seed], EARLY) for seed in seeds]
    gaps = [gap for seed in seeds if not math.isnan(gap := _teacher_gap(runs[seed]))]
    final = [runs[seed][-1].success for seed in seeds]
    return Summary(
        arm=arm,
        seeds=len(seeds),
        to_half=statistics.median(ours.values()),
        ratio=statistics.median(_ratio(theirs[seed], ours[seed]) for seed in seeds),
        log_ratio=interval(
            [
                math.log(max(min(theirs[seed], length), 1) / max(min(ours[seed], length), 1))
                for seed, length in ((seed, runs[seed][-1].rollouts) for seed in seeds)
            ]
        ),
        faster=sum(ours[seed] < theirs[seed] for seed in seeds),
        early=interval(list(early.values())),
        early_gain=interval(gains),
        higher=sum(gain > 0 for gain in gains),
        gap=interval(gaps) if gaps else None,
        final=interval(final),
        final_gain=interval([runs[seed][-1].success - baseline[seed][-1].success for seed in seeds]),
        worst=min(final),
    )


def _ratio(baseline: float, arm: float) -> float:
    if math.isinf(arm):
        return 1.0 if math.isinf(baseline) else 0.0
    return baseline / arm


def _teacher_gap(rows: Sequence[EvaluationRow]) -> float:
    """Return the mean gap; evaluations are equally far apart, so the mean over rows equals that over steps."""
    early = [row.teacher_p_right - row.student_p_right for row in rows if 0 < row.rollouts <= EARLY]
    return statistics.fmean(early) if early else math.nan
