"""The actor's part of a training step, GRPO alone and with SD-Search in turn, beside the floor of both.

    python -m benchmarks.cost.actor_step --shape tiny
    python -m benchmarks.cost.actor_step --shape qwen2.5-3b --groups 32

Random weights, trajectories of recorded lengths, verl's own workers in one process; no Ray and no vLLM. Prints the
seconds of every part (on a CPU the process's own, which others' work does not lengthen), and appends a row to
``benchmarks/cost/actor_step.csv`` or ``--csv``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_option, command_parser
from benchmarks.table import append_rows

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tqdm import tqdm

from benchmarks.cost import actor, floor, trajectories
from benchmarks.machine import device_name
from benchmarks.shapes import TIMED
from benchmarks.spread import quartiles

CSV = Path(__file__).resolve().with_suffix(".csv")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, measure, print, append; the row."""
    began = time.monotonic()
    options = _options(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = device == "cuda"
    torch.set_num_threads(1)  # as in runs on a CPU: threads that wait for each other measure the machine
    setting = actor.Setting(
        device=device,
        dtype=options.dtype or ("bf16" if gpu else "fp32"),
        attention=options.attention or ("flash_attention_2" if gpu else "sdpa"),
        remove_padding=gpu if options.remove_padding is None else options.remove_padding,
        checkpointing=options.checkpointing,
        token_budget=options.token_budget or (8192 if gpu else None),
        micro_batch=options.micro_batch,
    )
    lengths = trajectories.recorded(options.data) if options.data else trajectories.LENGTHS
    shape = TIMED[options.shape]
    groups = trajectories.draw_groups(lengths, options.groups, options.group_size, seed=options.seed)
    rows = trajectories.rollouts(groups, shape.vocab, seed=options.seed)
    peak = floor.peak_flops(device, setting.torch_dtype)
    workers = actor.Actor(shape, setting, len(rows), options.override)

    skip = options.skip_old_log_prob
    pairs = []
    for repeat in tqdm(range(options.repeats + 1), desc="pairs of steps", disable=None):
        if repeat > 1 and time.monotonic() - began > options.seconds:
            break
        pair = workers.pair(rows, skip)
        if repeat:  # the first starts caches
            pairs.append(pair)
    loss = min(workers.loss_seconds(rows) for _ in range(2))

    floors = floor.step_floor(rows, floor.cost_of(shape), setting.checkpointing, options.group_size)
    budget, size = setting.token_budget, setting.micro_batch
    where = {
        "device": device_name(device),
        "shape": options.shape,
        "dtype": setting.dtype,
        "attention": setting.attention,
        "remove_padding": setting.remove_padding,
        "checkpointing": setting.checkpointing,
        "micro_batch": f"{budget} tokens" if budget else f"{size} rows",
        "groups": options.groups,
        "group_size": options.group_size,
        "old_log_prob": "skipped" if skip else "computed",
        "override": " ".join(options.override),
    }
    row = where | summary(pairs, loss, rows, floors, peak, 1 if skip else 2)
    print(json.dumps(row, indent=2))
    append_rows(options.csv, [row])
    if options.profile:
        options.profile.write_text(workers.profile_teacher(rows))
    return row


def summary(
    pairs: Sequence[tuple[actor.Measured, actor.Measured]],
    loss: float,
    rows: Sequence[trajectories.Rollout],
    floors: floor.StepFloor,
    peak: float,
    log_prob_passes: int,
) -> dict[str, Any]:
    """Return the medians over pairs of steps; ratios and ``update_extra_s`` are of the two steps of a pair.

    ``update_extra_s`` is what the update with the SD loss takes beside the teacher pass and GRPO's update; ``loss_s``
    is the SD loss's own code, timed directly.
    """
    plain, ours = zip(*pairs, strict=True)

    def median(of: Sequence[actor.Measured], part: Callable[[actor.Measured], float]) -> float:
        return statistics.median(map(part, of))

    ratios = [b.actor / a.actor for a, b in pairs]
    q25, _, q75 = quartiles(ratios)
    update, teacher = median(plain, lambda s: s.update), median(ours, lambda s: s.teacher)
    reference = median([*plain, *ours], lambda s: s.reference)
    grpo = log_prob_passes * floors.log_prob + floors.update
    tokens = sum(len(row.prompt_ids) + len(row.response_ids) for row in rows)
    peak_gb = median(plain, lambda s: s.peak_gb)
    values = {
        "old_log_prob_s": median([*plain, *ours], lambda s: s.old_log_prob),
        "reference_s": reference,
        "update_s": update,
        "update_with_sd_s": median(ours, lambda s: s.update),
        "teacher_s": teacher,
        "update_extra_s": statistics.median(b.update - b.teacher - a.update for a, b in pairs),
        "loss_s": loss,
        "ratio": statistics.median(ratios),
        "ratio_q25": q25,
        "ratio_q75": q75,
        "ratio_floor": 1 + floors.teacher / grpo,
        "ratio_floor_shared": 1 + floors.teacher_shared / grpo,
        "loss_share_of_update": loss / update,
        "machine_tflops": peak / 1e12,
        "grpo_over_floor": median(plain, lambda s: s.actor) / (grpo / peak),
        "teacher_over_floor": teacher / (floors.teacher / peak),
        # How the teacher compares with verl's own forward, each measured against its operations.
        "teacher_over_log_prob": (teacher / floors.teacher) / (reference / floors.log_prob),
        "peak_extra_gb": median(ours, lambda s: s.peak_gb) - peak_gb,
        "peak_gb": peak_gb,
        "tokens_per_s": tokens / median(ours, lambda s: s.actor),
    }
    counts = {
        "repeats": len(pairs),
        "tokens": tokens,
        "teacher_tokens": sum(len(r.input_ids) for row in rows for r in row.teacher.rows),
        "query_tokens": sum(row.lengths.query_tokens for row in rows),
    }
    return counts | {name: round(value, 4) for name, value in values.items()}


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--shape", choices=TIMED, default="tiny", help="shape of the model (default: %(default)s)"
    )
    add_option(parser, "--groups", 4, "questions a step", "QUESTIONS")
    add_option(parser, "--group-size", 5, "rollouts a question", "ROLLOUTS")
    add_option(parser, "--repeats", 5, "measured pairs of steps", "PAIRS")
    parser.add_argument(
        "--data", type=Path, help="folder of recorded trajectories; default: built-in lengths"
    )
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16"), help="type of the weights (default: bf16 on a GPU, else fp32)"
    )
    parser.add_argument("--attention", help="Hugging Face attention implementation (default: the device's)")
    parser.add_argument(
        "--remove-padding", action=argparse.BooleanOptionalAction, help="pack sequences (default: on a GPU)"
    )
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument(
        "--token-budget",
        type=int,
        metavar="TOKENS",
        help="tokens a micro-batch (default: 8192 on a GPU, else none)",
    )
    add_option(parser, "--micro-batch", 10, "rows a micro-batch without a token budget", "ROWS")
    parser.add_argument(
        "--skip-old-log-prob", action="store_true", help="as with rollout_correction.bypass_mode"
    )
    parser.add_argument(
        "--override", action="append", default=[], help="a Hydra override; may be repeated (default: none)"
    )
    add_option(parser, "--seed", 0, "seed of weights and lengths", "SEED")
    parser.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        metavar="S",
        help="start no further pair of steps after this time (default: no limit)",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="write what the teacher pass spends its time on (default: no)",
    )
    add_option(parser, "--csv", CSV, "file to append to")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
