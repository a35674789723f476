"""The acceptance comparison: its start, its arms and seeds, and the criteria that its rows must meet.

Every bar on the method is for the end of a 95 % interval over paired seeds, so that it says how sure the result is and
does not hang on one seed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.world.arms import BASELINE
from benchmarks.world.config import TrainConfig
from benchmarks.world.experiment import EvaluationRow
from benchmarks.world.summary import EARLY, Interval, curves, summarize
from sd_search_verl.errors import UserError
from sd_search_verl.table import render
from sd_search_verl.world.config import FitConfig, WorldConfig
from sd_search_verl.world.warmstart import WarmStartError, make_checkpoint

METHOD = "sd"
EMPTY = "no_block"
FALSE = ("shuffled", "flipped", "uniform", "uniform_candidates", "full", "current_documents")
"""Controls: what the block says is false or leaks documents and thinking, or the target is no teacher's."""
START, HEAD_DIM = FitConfig(seed=11, steps=3000, learning_rate=4e-3), 16
"""The warm start of a model too small for vLLM: the whole comparison, from nothing, takes minutes."""
MADE_WITH = "made_with"
"""File of a start that says how it was made."""
SEEDS = range(480, 492)
CONTROLS = 4
"""The first seeds, in which the controls run too."""
CONFIG, ALPHA = TrainConfig(steps=56, questions=10, group=3, learning_rate=8e-4), 1.0
"""Small groups are where hindsight helps most (docs/evidence.md has the paper's five beside them)."""
GAP, GAIN, RATIO = 0.1, 0.05, 1.1
"""Bars of the method: teacher's minus student's p(right), gain in p(right), rollouts saved."""
SAME = 0.02
"""By how much an empty block's success may differ from the baseline's, at any evaluation of any seed."""


@dataclass(frozen=True)
class Criterion:
    """A demand, what was measured, and whether that is enough."""

    demand: str
    measured: str
    met: bool


def plan(seeds: Sequence[int] = SEEDS) -> list[tuple[str, int]]:
    """Return pairs of arm and seed; seeds outside, so that an interrupted comparison has whole pairs."""
    pairs = [(arm, seed) for seed in seeds for arm in (BASELINE, METHOD)]
    return pairs + [(arm, seed) for seed in seeds[:CONTROLS] for arm in (EMPTY, *FALSE)]


def start(out: Path, seed: int = START.seed) -> Path:
    """Return the folder in ``out`` with the warm-started model of a seed, which is trained if it is not there.

    Raises:
        WarmStartError: it does not read blocks.
        UserError: the one in ``out`` was made in another way.
    """
    config = START.replace(seed=seed)
    checkpoint, made_with = out / "start", f"{config!r}\nheads of {HEAD_DIM}\n{WorldConfig()!r}\n"
    if not checkpoint.exists():
        torch.set_num_threads(1)
        part = out / "start.part"
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        try:
            print(make_checkpoint(part, config, WorldConfig(), head_dim=HEAD_DIM))
        except WarmStartError:
            shutil.rmtree(part)
            raise
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
    return [
        _above("teacher - student", sd.gap, GAP),
        _below("teacher - student with shuffled labels", shuffled.gap, 0.05),
        _above(f"gain in p(right) at {EARLY}", sd.early_gain, GAIN),
        _above("log ratio of rollouts to 50 %", sd.log_ratio, math.log(RATIO)),
        _above("success at the end, minus the baseline's", sd.final_gain, 0.0),
        *(_above(f"p(right) at {EARLY}, minus {arm}'s", _gain_over(rows, arm), 0.0) for arm in FALSE),
        *_empty_block(rows),
    ]


def verdict(found: Sequence[Criterion]) -> str:
    """Return the criteria as a table for the terminal."""
    lines = [
        ["criterion", "measured", ""],
        *([c.demand, c.measured, "met" if c.met else "MISSED"] for c in found),
    ]
    return render(lines)


def _above(what: str, found: Interval | None, bar: float) -> Criterion:
    return Criterion(
        f"{what}: 95 % interval above {bar:.3g}", str(found), found is not None and found.low > bar
    )


def _below(what: str, found: Interval | None, bar: float) -> Criterion:
    return Criterion(
        f"{what}: 95 % interval below {bar:.3g}", str(found), found is not None and found.high < bar
    )


def _gain_over(rows: Sequence[EvaluationRow], control: str) -> Interval:
    """Return the method's gain over a control: that a control shows no gain of its own would say little."""
    return next(arm.early_gain for arm in summarize(rows, baseline=control) if arm.arm == METHOD)


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
