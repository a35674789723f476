"""The acceptance comparison: its start, its arms and seeds, and the criteria that its rows must meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.world.arms import BASELINE
from benchmarks.world.experiment import EvaluationRow
from benchmarks.world.summary import Summary, curves, summarize
from sd_search_verl.errors import UserError
from sd_search_verl.table import render
from sd_search_verl.world.config import FitConfig, TrainConfig, WorldConfig
from sd_search_verl.world.warmstart import make_checkpoint

METHOD = "sd"
EMPTY = "no_block"
FALSE = ("shuffled", "flipped", "uniform", "uniform_candidates", "full", "current_documents")
"""Controls: what the block says is false or leaks documents and thinking, or the target is no teacher's."""
START, HEAD_DIM = FitConfig(seed=11, steps=3000, learning_rate=4e-3), 16
"""The warm start of a model too small for vLLM: the whole comparison, from nothing, takes minutes."""
MADE_WITH = "made_with"
"""File of a start that says how it was made."""
SEEDS = range(460, 472)
CONTROL_SEEDS = range(460, 464)
CONFIG, ALPHA = TrainConfig(steps=56, questions=10, group=3, learning_rate=8e-4), 1.0
"""Small groups are where hindsight helps most (docs/evidence.md has the paper's five beside them)."""
SAME = 0.02
"""By how much an empty block's success may differ from the baseline's, at any evaluation of any seed."""


@dataclass(frozen=True)
class Criterion:
    """A demand, what was measured, and whether that is enough."""

    demand: str
    measured: str
    met: bool


def plan() -> list[tuple[str, int]]:
    """Return pairs of arm and seed; seeds outside, so that an interrupted comparison has whole pairs."""
    pairs = [(arm, seed) for seed in SEEDS for arm in (BASELINE, METHOD)]
    return pairs + [(arm, seed) for seed in CONTROL_SEEDS for arm in (EMPTY, *FALSE)]


def start(out: Path) -> Path:
    """Return the folder in ``out`` with the warm-started model, which is trained if it is not there.

    Raises:
        WarmStartError: it does not read blocks.
        UserError: the one in ``out`` was made in another way.
    """
    checkpoint, made_with = out / "start", f"{START!r}\nheads of {HEAD_DIM}\n{WorldConfig()!r}\n"
    if not checkpoint.exists():
        torch.set_num_threads(1)
        part = out / "start.part"
        print(make_checkpoint(part, START, WorldConfig(), head_dim=HEAD_DIM))
        (part / MADE_WITH).write_text(made_with)
        part.rename(checkpoint)  # whole or absent
    note = checkpoint / MADE_WITH
    if not note.is_file() or note.read_text() != made_with:
        raise UserError(f"{checkpoint} was made in another way than this preset's. Fix: give another --out")
    return checkpoint


def criteria(rows: Sequence[EvaluationRow]) -> list[Criterion]:
    """Return the verdict over the rows of :func:`plan`.

    Raises:
        UserError: an arm is missing.
    """
    found = {summary.arm: summary for summary in summarize(rows)}
    for arm in (METHOD, EMPTY, *FALSE):
        if arm not in found:
            raise UserError(f"there is no {arm} run; the acceptance needs one of every arm of its plan")
    sd, shuffled = found[METHOD], found["shuffled"]
    most, many = _of(sd, 11 / 12), _of(sd, 10 / 12)
    gaps = [_gap(summary) for summary in (sd, shuffled)]
    return [
        Criterion("teacher - student above 0.15", f"{gaps[0]:.3f}", gaps[0] > 0.15),
        Criterion("the same with shuffled labels below 0.05", f"{gaps[1]:.3f}", gaps[1] < 0.05),
        Criterion(f"p(right) higher in {most} seeds", f"{sd.higher}/{sd.seeds}", sd.higher >= most),
        Criterion(f"sooner at 50 % success in {many} seeds", f"{sd.faster}/{sd.seeds}", sd.faster >= many),
        Criterion("median ratio at least 1.2", f"{sd.ratio:.2f}", sd.ratio >= 1.2),
        *(_not_better(found[arm]) for arm in FALSE),
        *_empty_block(rows),
    ]


def verdict(found: Sequence[Criterion]) -> str:
    """Return the criteria as a table for the terminal."""
    lines = [
        ["criterion", "measured", ""],
        *([c.demand, c.measured, "met" if c.met else "MISSED"] for c in found),
    ]
    return render(lines)


def _of(summary: Summary, share: float) -> int:
    return round(share * summary.seeds)


def _gap(summary: Summary) -> float:
    return summary.gap.mean if summary.gap is not None else float("nan")


def _not_better(summary: Summary) -> Criterion:
    """Return the criterion that an arm has no gain in p(right) with an interval above 0, or is not sooner at 50 %."""
    gain = summary.early_gain
    better = gain.mean - gain.half_width > 0 and summary.ratio > 1
    return Criterion(
        f"{summary.arm} not better than {BASELINE}", f"ratio {summary.ratio:.2f}, gain {gain}", not better
    )


def _empty_block(rows: Sequence[EvaluationRow]) -> list[Criterion]:
    by_arm = curves(rows)
    loss = max(row.sd_loss for run in by_arm[EMPTY].values() for row in run if row.sd_loss == row.sd_loss)
    apart = [
        max(
            abs(ours.success - theirs.success)
            for ours, theirs in zip(run, by_arm[BASELINE][seed], strict=True)
        )
        for seed, run in by_arm[EMPTY].items()
    ]
    return [
        Criterion("empty block: JSD at most 1e-6", f"{loss:.1e}", loss <= 1e-6),
        Criterion(f"empty block: {BASELINE}'s curve within {SAME}", f"{max(apart):.3f}", max(apart) <= SAME),
    ]
