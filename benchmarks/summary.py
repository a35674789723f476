"""The figures that README.md and docs/results.md state, computed from the CSVs of the measurements.

``python -m benchmarks.summary`` writes ``benchmarks/summary.csv``: the figure as it is printed, its spread, the CSV it
comes from, the command that measures it, date and machine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.arguments import command_parser
from benchmarks.figure import FOLDER, Figure, rows_of
from benchmarks.summary_gpu import gpu_figures
from benchmarks.table import write_rows
from benchmarks.world.arms import BASELINE
from benchmarks.world.compare import read_csv
from benchmarks.world.summary import Summary, summarize
from sd_search_verl.evaluation.statistics import t_interval

CSV = FOLDER / "summary.csv"


def figures() -> list[Figure]:
    """Return all figures, in the order of docs/results.md."""
    return [*_world(), *_real_model(), *_cost(), *_retriever(), *_dense(), _agreement(), *gpu_figures()]


_TWO, _THREE = "--questions 10 --group 2", "--questions 10 --group 3"
_SLOW = f"{_TWO} --steps 63 --learning-rate 3e-4 --evaluate-every 14"
WORLDS = (
    ("acceptance", "world_acceptance", "26", "--preset acceptance --jobs 2"),
    (
        "world",
        "world",
        "22",
        f"grpo sd --seeds 460-471 --model START {_THREE} --steps 56 --learning-rate 8e-4 --alpha 1",
    ),
    ("groups of five", "world_groups_of_five", "21", "grpo sd --seeds 112-123"),
    (
        "groups of two",
        "world_groups_of_two",
        "22",
        f"grpo sd --seeds 300-311 {_TWO} --steps 98 --learning-rate 4e-4 --evaluate-every 14",
    ),
    (
        "fastest rate",
        "world_fastest_rate",
        "21",
        f"grpo sd --seeds 340-351 {_TWO} --steps 98 --learning-rate 7e-4",
    ),
    ("slow", "world_slow", "22", f"grpo sd --seeds 400-411 {_SLOW}"),
    ("other start", "world_other_start", "22", f"grpo sd --seeds 400-411 --model START {_SLOW}"),
    (
        "small and fast",
        "world_small_fast",
        "22",
        f"grpo sd --seeds 440-451 --model START {_THREE} --steps 42 --learning-rate 1.2e-3 --alpha 1",
    ),
    (
        "three hops, groups of two",
        "world_agent_groups_of_two",
        "21",
        f"grpo sd_alpha_1 --seeds 150-161 --model START {_TWO} --steps 98 --learning-rate 3e-4",
    ),
    (
        "three hops, groups of five",
        "world_agent",
        "21",
        "grpo sd --seeds 130-141 --model START --learning-rate 4e-4",
    ),
    ("whole stack", "world_stack", "21", ""),
    ("whole stack, earlier", "world_stack_earlier", "21", ""),
)
"""Name, CSV, day of November 2026, options of ``benchmarks.world compare``; runs through verl have a recipe instead."""

USUAL = slice(1, 8)
"""The worlds of ``WORLDS`` whose pairs docs/evidence.md adds up."""


def _world() -> Iterator[Figure]:
    found = []
    for name, file, day, options in WORLDS:
        arm = _method(summarize(read_csv(FOLDER / "world" / f"{file}.csv")))
        found.append(arm)
        command, device = f"python -m benchmarks.world compare {options}", "CPU, 1 thread"
        if not options:
            command, device = (
                'recipes/world_compare.sh "0 1 2 3" runs/world_compare 21',
                "main_ppo, 2 CPU cores",
            )
        about = (f"world/{file}.csv", command, f"2026-11-{day}", device)
        low, high = math.exp(arm.log_ratio.low), math.exp(arm.log_ratio.high)
        spread = f"{low:.2f} to {high:.2f}; {arm.faster} of {arm.seeds} seeds"
        yield Figure("effect", f"{name}: rollouts to 50 %, ratio", f"{arm.ratio:.2f}", spread, *about)
        gain = f"{arm.early_gain.mean:+.3f}"
        spread = f"± {arm.early_gain.half_width:.3f}; {arm.higher} of {arm.seeds} seeds"
        yield Figure("effect", f"{name}: p(right query), gain", gain, spread, *about)
    usual = found[USUAL]
    faster, pairs = sum(arm.faster for arm in usual), sum(arm.seeds for arm in usual)
    files = f"world/*.csv, {len(usual)} of them"
    about = (files, "python -m benchmarks.world compare", "2026-11-22", "CPU, 1 thread")
    spread = "12 of the seeds stand twice, with two starts"
    yield Figure("effect", "pairs in which SD-Search is sooner", f"{faster} of {pairs}", spread, *about)


def _real_model() -> Iterator[Figure]:
    """Yield what the probe reads of SmolLM2, and the difference that SD-Search makes on real questions."""
    command = "python -m benchmarks.real_model.forms MODEL --traces FILE"
    for when, policy in (
        ("before lessons", "SmolLM2-135M, short turns"),
        ("after lessons", "SmolLM2-135M, short turns, after lessons"),
    ):
        (row,) = (
            row
            for row in rows_of("real_model/probe.csv")
            if (row["model"], row["block"]) == (policy, "default")
        )
        mean, low, high = (float(row[f"label_sensitivity_{part}"]) for part in ("mean", "low", "high"))
        spread = f"{low:.2f} to {high:.2f}, bootstrap over {row['label_sensitivity_n']} groups"
        about = ("real_model/probe.csv", command, "2026-11-27", row["device"])
        yield Figure("effect", f"SmolLM2, label sensitivity {when}, nats", f"{mean:.2f}", spread, *about)
    first, more = "real_model/effect.csv", "real_model/effect_lessons.csv"
    units = {"margins": "groups", "gold": "questions"}
    command = "python -m benchmarks.real_model.effect run DATA_DIR"
    about = (
        first,
        f"{command}; {command} --seeds 5 6 7 8",
        "2026-11-27",
        "CPU, one thread of 2 shared cores, x86_64",
    )
    both = [_effect(file, "margins", "grpo_lessons")["by_seed"] for file in (first, more)]
    over_seeds = t_interval([float(value) for value in " ".join(both).split()])
    spread = f"± {over_seeds.mean - over_seeds.low:.2f}; {over_seeds.n} seeds"
    name = "SmolLM2, held-out margin, SD-Search - GRPO, nats"
    yield Figure("effect", name, f"{over_seeds.mean:+.2f}", spread, *about)
    for figure, file, measure, beside in (
        ("held-out margin, SD-Search - GRPO, first seeds, nats", first, "margins", "grpo_lessons"),
        ("held-out margin, SD-Search - GRPO, four more seeds, nats", more, "margins", "grpo_lessons"),
        ("held-out margin, true - flipped labels, nats", more, "margins", "sd_lessons_flipped"),
        ("gold in documents, SD-Search - GRPO, four more seeds", more, "gold", "grpo_lessons"),
    ):
        row = _effect(file, measure, beside)
        difference, low, high = (float(row[part]) for part in ("difference", "low", "high"))
        digits = 2 if measure == "margins" else 3
        over_seeds = t_interval([float(value) for value in row["by_seed"].split()])
        spread = f"± {over_seeds.mean - over_seeds.low:.{digits}f}; {row['seeds']} seeds"
        spread += f"; {low:+.{digits}f} to {high:+.{digits}f} over {row['n']} held-out {units[measure]}"
        seeds = "" if file == first else " --seeds 5 6 7 8"
        about = (file, f"{command}{seeds}", "2026-11-27", "CPU, one thread of 2 shared cores, x86_64")
        yield Figure("effect", f"SmolLM2, {figure}", f"{difference:+.{digits}f}", spread, *about)


def _effect(file: str, measure: str, beside: str) -> dict[str, str]:
    """Return the row of SD-Search after lessons, less another arm."""
    wanted = (measure, "sd_lessons", beside)
    (row,) = (row for row in rows_of(file) if (row["measure"], row["arm"], row["beside"]) == wanted)
    return row


def _method(found: Sequence[Summary]) -> Summary:
    return next(arm for arm in found if arm.arm != BASELINE)


def _cost() -> Iterator[Figure]:
    step = rows_of("cost/step_overhead.csv")[-1]
    command = "python -m benchmarks.cost.step_overhead --inputs DIR --steps 84"
    spread = f"quartiles {float(step['ratio_q25']):.2f} to {float(step['ratio_q75']):.2f}"
    about = ("cost/step_overhead.csv", command, "2026-11-27", step["device"])
    yield Figure("cost", "CPU training step, ratio", f"{float(step['ratio']):.2f}", spread, *about)
    yield Figure("cost", "CPU training step, actor's part", f"{float(step['update_ratio']):.2f}", "", *about)
    (*_, actor) = (row for row in rows_of("cost/actor_step.csv") if row["shape"] == "tiny")
    command = (
        "python -m benchmarks.cost.actor_step --shape tiny --groups 1 --micro-batch 5 --repeats 9 --data DIR"
    )
    spread = f"quartiles {float(actor['ratio_q25']):.2f} to {float(actor['ratio_q75']):.2f}"
    about = ("cost/actor_step.csv", command, "2026-11-21", actor["device"])
    yield Figure("cost", "actor's part, recorded lengths", f"{float(actor['ratio']):.2f}", spread, *about)
    yield Figure("cost", "its floor by operations", f"{float(actor['ratio_floor']):.3f}", "", *about)


def _retriever() -> Iterator[Figure]:
    for clients, repeats in (("64", "0.0"), ("256", "0.0"), ("64", "0.26"), ("256", "0.26")):
        load = {"corpus": "synthetic-1M, fourth", "clients": clients, "duplicates": repeats}
        case = f"BM25, {clients} clients, {100 * float(repeats):.0f} % repeats"
        for what, column in (("queries a second", "qps"), ("p99, lower", "p99_ms"), (CPU, CPU_MS)):
            yield _slices(f"{case}: {what}", column, load)


def _dense() -> Iterator[Figure]:
    for case, corpus in (
        ("MiniLM, ONNX Runtime", "200k x 384, MiniLM, ours by ONNX"),
        ("E5's shape, ONNX Runtime", "200k x 768, E5-shaped, ours by ONNX"),
    ):
        yield _slices(f"dense, {case}: {CPU}", CPU_MS, {"corpus": corpus})


CPU, CPU_MS = "CPU a query, less", "cpu_ms_per_query"


def _slices(name: str, column: str, load: dict[str, str]) -> Figure:
    """Return how many times better this server was than the other one; less is better, but of queries a second."""
    rows = [row for row in rows_of("retriever/load.csv") if load.items() <= row.items()]
    ours, theirs = ([row for row in rows if row["server"] == one] for one in ("ours", "search-r1"))
    ratio = _median(theirs, column) / _median(ours, column)
    spread = f"medians of {len(ours)} alternated slices"
    command = "python -m benchmarks.retriever.load --server NAME=URL@PID ... --queries FILE"
    about = ("retriever/load.csv", command, "2026-11-22", rows[0]["device"])
    return Figure("retriever", name, f"{1 / ratio if column == 'qps' else ratio:.1f}", spread, *about)


def _agreement() -> Figure:
    rows = rows_of("correctness/agreement.csv")
    largest = max(float(row["relative_difference"]) for row in rows)
    command = "pytest -n 0 tests/verl_adapter/actor/test_worker.py -k equals_the_reference"
    spread = f"largest of {len(rows)} combinations; the test's bound is 1e-5"
    about = ("correctness/agreement.csv", command, "2026-11-26", rows[0]["device"])
    return Figure("correctness", "gradient of L_SD against plain PyTorch", f"{largest:.1e}", spread, *about)


def _median(rows: Sequence[dict[str, str]], column: str) -> float:
    return statistics.median(float(row[column]) for row in rows)


def write(path: Path = CSV) -> None:
    """Write the figures as a CSV."""
    write_rows(path, map(asdict, figures()))


def main() -> None:
    """Write the table of the summary."""
    command_parser(__doc__).parse_args()
    write()


if __name__ == "__main__":
    main()
