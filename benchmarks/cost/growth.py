"""How the cost of SD-Search grows with the group, the searches, the response and the block.

    python -m benchmarks.cost.growth                    measures on this machine
    python -m benchmarks.cost.growth --operations       only counts operations, for any shape and length
    python -m benchmarks.cost.growth --plot FILE.svg    draws the CSV

One length is changed at a time, around trajectories of recorded lengths. Every point is one pair of steps of the actor
(see ``benchmarks/cost/actor_step.py``), beside what the operations say. Appends to ``benchmarks/cost/growth.csv``.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_option, command_parser
from benchmarks.table import append_rows, read_rows

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tqdm import tqdm

from benchmarks.cost import actor, floor, trajectories
from benchmarks.cost.trajectories import Lengths
from benchmarks.machine import device_name
from benchmarks.shapes import TIMED
from benchmarks.svg import COLOURS, Line, Panel, svg

CSV = Path(__file__).resolve().with_suffix(".csv")
FIELDS = [
    *("device", "shape", "axis", "value", "repeats", "grpo_s", "teacher_s", "teacher_floor_s", "ratio"),
    *("ratio_floor", "ratio_floor_shared", "extra_gb"),
]
BASE = Lengths(prompt=136, response=559, spans=[(70, 78)])
"""Means of the recorded trajectories."""
GROUP = 5
DOCUMENTS = 386
"""Tokens from a query to the next one: its documents and the thinking after them."""


@dataclass(frozen=True)
class Point:
    """One measured place: ``value`` of ``axis``, and the groups of that step."""

    axis: str
    value: int
    groups: list[list[Lengths]]
    block: int | None = None


def points(longest: int) -> Iterator[Point]:
    """Return all points; no response longer than ``longest``."""
    for size in (2, 4, 8, 16):
        yield Point("group size", size, [[BASE] * size])
    for searches in (1, 2, 4, 8):
        response = BASE.response + (searches - 1) * DOCUMENTS
        spans = [(70 + i * DOCUMENTS, 78 + i * DOCUMENTS) for i in range(searches)]
        if response <= longest:
            yield Point("searches", searches, [[Lengths(BASE.prompt, response, spans)] * GROUP])
    for response in (512, 1024, 2048, 4096, 8192):
        if response <= longest:
            yield Point("response tokens", response, [[Lengths(BASE.prompt, response, BASE.spans)] * GROUP])
    for block in (64, 256, 1024):
        yield Point("block tokens", block, [[BASE] * GROUP], block)


def rollouts_of(point: Point, shape: str) -> list[trajectories.Rollout]:
    """Return the rollouts of a point's step."""
    return trajectories.rollouts(point.groups, TIMED[shape].vocab, seed=0, block=point.block)


def operations(point: Point, shape: str) -> tuple[floor.StepFloor, dict[str, Any]]:
    """Return the operations of a point, and their part of its row."""
    rows, cost = rollouts_of(point, shape), floor.cost_of(TIMED[shape])
    floors = floor.step_floor(rows, cost, checkpointing=False, group_size=len(point.groups[0]))
    grpo = 2 * floors.log_prob + floors.update
    return floors, {
        "shape": shape,
        "axis": point.axis,
        "value": point.value,
        "ratio_floor": round(1 + floors.teacher / grpo, 4),
        "ratio_floor_shared": round(1 + floors.teacher_shared / grpo, 4),
    }


def measure(workers: actor.Actor, point: Point, shape: str, repeats: int, peak: float) -> dict[str, Any]:
    """Return the medians over pairs of steps, and the ratio that the operations give."""
    rows = rollouts_of(point, shape)
    pairs = [workers.pair(rows) for _ in range(repeats)]
    floors, counted = operations(point, shape)
    values = {
        "grpo_s": statistics.median(plain.actor for plain, _ in pairs),
        "teacher_s": statistics.median(ours.teacher for _, ours in pairs),
        "teacher_floor_s": floors.teacher / peak,
        "ratio": statistics.median(ours.actor / plain.actor for plain, ours in pairs),
        "extra_gb": statistics.median(ours.peak_gb - plain.peak_gb for plain, ours in pairs),
    }
    measured = {name: round(value, 4) for name, value in values.items()}
    return {"device": device_name(workers.device), **counted, "repeats": repeats, **measured}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure or count all points, or plot."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "--shape", choices=TIMED, default="tiny", help="shape of the model (default: %(default)s)"
    )
    add_option(parser, "--repeats", 2, "pairs of steps a point", "PAIRS")
    parser.add_argument(
        "--longest",
        type=int,
        metavar="TOKENS",
        help="longest response (default: 2048 on a CPU, 8192 on a GPU)",
    )
    parser.add_argument("--plot", type=Path, help="only draw the CSV into this file (default: measure)")
    parser.add_argument("--operations", action="store_true", help="measure nothing")
    options = parser.parse_args(argv)
    if options.plot:
        plot(read_rows(CSV), options.plot)
        return
    if options.operations:
        counted = [operations(point, options.shape)[1] for point in points(options.longest or 8192)]
        append_rows(CSV, ({"device": "none: operations counted", **row} for row in counted), FIELDS)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = device == "cuda"
    torch.set_num_threads(1)
    setting = actor.Setting(
        device,
        dtype="bf16" if gpu else "fp32",
        attention="flash_attention_2" if gpu else "sdpa",
        remove_padding=gpu,
        token_budget=16384 if gpu else None,
        micro_batch=1,
    )
    peak = floor.peak_flops(device, setting.torch_dtype)
    workers = actor.Actor(TIMED[options.shape], setting, rows=1)
    places = list(points(options.longest or (8192 if gpu else 2048)))
    workers.step(trajectories.rollouts(places[0].groups, 100, seed=0), actor.ALPHA_ON)  # starts caches
    for point in tqdm(places, desc="points", disable=None):
        append_rows(CSV, [measure(workers, point, options.shape, options.repeats, peak)], FIELDS)


def plot(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Draw the measured ratio and the operations' ratios, one panel an axis."""
    shown = (
        ("ratio", "measured"),
        ("ratio_floor", "operations"),
        ("ratio_floor_shared", "prefix read once a group"),
    )
    panels = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        lines = []
        for (name, label), colour in zip(shown, COLOURS, strict=False):
            of = [
                row
                for row in rows
                if row["axis"] == axis and row[name] and bool(row["ratio"]) == (name == "ratio")
            ]
            at = sorted((int(row["value"]), [float(row[name])]) for row in of)
            lines.append(Line(label, colour, at, dashed=name == "ratio_floor_shared"))
        panels.append(
            Panel(f"Actor's part, GRPO = 1, by {axis}", [x for x in lines if x.points], 1.0, 1.4, axis)
        )
    path.write_text(svg(panels))


if __name__ == "__main__":
    main()
