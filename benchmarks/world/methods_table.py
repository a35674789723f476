"""The table of one setting of the comparison of methods, and the bars that an arm holds there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.world.arms import BASELINE
from benchmarks.world.experiment import EvaluationRow
from benchmarks.world.summary import EARLY, Interval, Summary, summarize

FASTER = 1.3
"""Bar in groups of five, of the ratio of rollouts to 50 % success: lower end of its 95 % interval."""
NOT_SLOWER, NOT_LOWER = 0.95, -0.05
"""Bars of "never worse": lower ends of the intervals of that ratio and of the difference in final success."""
COLLAPSED = 0.5
"""A run has collapsed if its final success is below this share of the baseline's on the same seed."""

Rates = dict[str, float]
"""Arm -> learning rate."""


@dataclass(frozen=True)
class Verdict:
    """Which bars an arm holds in a setting."""

    collapsed: int
    never_worse: bool
    faster: bool


def verdict(summary: Summary, rows: Sequence[EvaluationRow]) -> Verdict:
    """Return the verdict on an arm from the rows of its setting."""
    final = {(row.arm, row.seed): row.success for row in sorted(rows, key=lambda row: row.step)}
    collapsed = sum(
        success < COLLAPSED * final[BASELINE, seed]
        for (arm, seed), success in final.items()
        if arm == summary.arm
    )
    low, final_low = math.exp(summary.log_ratio.low), summary.final_gain.low
    never_worse = low >= NOT_SLOWER and final_low >= NOT_LOWER and not collapsed
    return Verdict(collapsed, never_worse, low > FASTER)


def markdown(rates: Rates, rows: Sequence[EvaluationRow]) -> str:
    """Return a setting's table as docs/comparison.md has it, by ratio: a geometric mean over pairs, 95 % interval."""
    head = ["arm", "rate", "rollouts to 50 %", "ratio", "faster", f"p(right) at {EARLY}", "paired gain"]
    lines = [[*head, "final success", "paired gain", "worst seed", "never worse"]]
    lines.append(["---"] * len(lines[0]))
    for s in sorted(summarize(rows), key=lambda s: -s.log_ratio.mean):
        base, ratio = s.arm == BASELINE, s.log_ratio
        mean, low, high = (math.exp(value) for value in (ratio.mean, ratio.low, ratio.high))
        lines.append(
            [
                f"`{s.arm}`",
                f"{rates[s.arm]:.1e}".replace(".0e", "e").replace("e-0", "e-"),
                f"{s.to_half:.0f}" if math.isfinite(s.to_half) else "never",
                "" if base else f"{mean:.2f} ({low:.2f} to {high:.2f})",
                "" if base else f"{s.faster}/{s.seeds}",
                str(s.early),
                "" if base else _gain(s.early_gain),
                str(s.final),
                "" if base else _gain(s.final_gain),
                f"{s.worst:.2f}",
                "" if base else "yes" if verdict(s, rows).never_worse else "no",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _gain(interval: Interval) -> str:
    return f"{interval.mean:+.3f} ± {interval.half_width:.3f}"
