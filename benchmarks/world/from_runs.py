"""Runs of the whole stack in the world, as rows of the same table: from ``metrics.jsonl`` and ``traces.jsonl``.

There the policy is seen only while it trains: ``success`` is the exact match of the training rollouts, and
``p_right`` the share of their queries with the right phrasing, both over the steps since the row before.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.world.config import TrainConfig
from benchmarks.world.experiment import EvaluationRow
from sd_search_verl.errors import UserError
from sd_search_verl.files import read_json
from sd_search_verl.runs.reader import read_metrics, read_traces

WINDOW = TrainConfig().evaluate_every
"""Steps of a row."""
DROPPED = [f"training/filter_groups/{kind}_samples" for kind in ("evicted", "discarded_surplus")]
"""verl's counts of the groups that dynamic sampling drew and did not train in a step."""


def read_stack_runs(folders: Sequence[Path]) -> list[EvaluationRow]:
    """Return the rows of run folders named ``<arm>-seed<N>``, each with its world in ``world/``.

    Raises:
        FileNotFoundError: a folder without metrics or oracle.
        UserError: a folder of another name.
    """
    return [row for folder in folders for row in _rows(folder)]


def _rows(folder: Path) -> list[EvaluationRow]:
    arm, marker, seed = folder.name.rpartition("-seed")
    if not marker or not seed.isdigit():
        raise UserError(f"{folder} is not named <arm>-seed<N>")
    oracle = read_json(folder / "world" / "oracle.json")["relations"]
    right: dict[int, list[float]] = {}
    rollouts: dict[int, int] = {}
    members: Counter[tuple[int, str]] = Counter()
    traces = read_traces(folder)
    for trace in traces.load(traces.refs):
        rollouts[trace.step] = rollouts.get(trace.step, 0) + 1
        members[trace.step, trace.prompt[-1]["content"]] += 1
        relations = relations_of(trace.prompt[-1]["content"])
        for relation, query in zip(relations, trace.queries, strict=False):
            right.setdefault(trace.step, []).append(
                float({*oracle[relation]["right"].split()} <= {*query.split()})
            )
    steps = read_metrics(folder).steps
    group = max(members.values(), default=0)
    done, rows = 0, []
    previous = 0
    for last in [*range(WINDOW, max(steps), WINDOW), max(steps)]:
        window = [step for step in range(previous + 1, last + 1) if step in steps]
        previous = last
        dropped = sum(steps[step].get(name, 0.0) for step in window for name in DROPPED)
        done += sum(rollouts.get(step, 0) for step in window) + round(dropped) * group

        def mean(name: str, window: Sequence[int] = window) -> float:
            values = [steps[step][name] for step in window if name in steps[step]]
            return statistics.fmean(values) if values else math.nan

        queries = [value for step in window for value in right.get(step, [])]
        rows.append(
            EvaluationRow(
                arm=arm,
                seed=int(seed),
                device="main_ppo",
                step=last,
                rollouts=done,
                success=mean("search/em"),
                success_one_hop=math.nan,
                success_more_hops=math.nan,
                p_right=statistics.fmean(queries) if queries else math.nan,
                cpu_s=math.nan,
                reward=mean("critic/score/mean"),
                sd_loss=mean("sd_search/loss"),
                teacher_entropy=mean("sd_search/teacher_entropy"),
                student_entropy=mean("sd_search/student_entropy"),
            )
        )
    return rows


def relations_of(prompt: str) -> list[str]:
    """``Question: b of a of Name ?`` -> ``[a, b]``, the order in which they are searched."""
    words = prompt.split("Question:")[-1].replace("?", " ").split()
    return [word for word in reversed(words[:-1]) if word != "of"]
