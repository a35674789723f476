"""The actor's part of a training step, GRPO alone and with SD-Search in turn, beside the floor of both.

    python -m benchmarks.actor_step --shape tiny
    python -m benchmarks.actor_step --shape qwen2.5-3b --groups 32

Random weights, trajectories of recorded lengths, verl's own workers in one process; no Ray and no vLLM. Prints the
seconds of every part (on a CPU the process's own, which others' work does not lengthen), and appends a row to
``benchmarks/actor_step.csv`` or ``--csv``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.arguments import command_parser
from benchmarks.table import append_rows

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tqdm import tqdm

from benchmarks import actor, floor, trajectories
from benchmarks.machine import device_name
from benchmarks.peak import Peak

HERE = Path(__file__).resolve().parent


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, measure, print, append; the row."""
    began = time.monotonic()
    options = _options(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = device == "cuda"
    torch.set_num_threads(1)  # as in runs on a CPU: threads that wait for each other measure the machine
    setting = actor.Setting(
        shape=options.shape,
        device=device,
        dtype=options.dtype or ("bf16" if gpu else "fp32"),
        attention=options.attention or ("flash_attention_2" if gpu else "sdpa"),
        remove_padding=gpu if options.remove_padding is None else options.remove_padding,
        checkpointing=options.checkpointing,
        token_budget=options.token_budget or (8192 if gpu else None),
        micro_batch=options.micro_batch,
    )
    lengths = trajectories.recorded(options.data) if options.data else trajectories.LENGTHS
    vocabulary = actor.SHAPES[options.shape]["vocab_size"]
    groups = trajectories.draw_groups(lengths, options.groups, options.group_size, seed=options.seed)
    rows = trajectories.rollouts(groups, vocabulary, seed=options.seed)
    dtype = torch.bfloat16 if setting.dtype == "bf16" else torch.float32
    peak = floor.peak_flops(device, dtype)

    ram = Path("/dev/shm")  # 15 GB at the 7B shape are written and read twice
    with tempfile.TemporaryDirectory(dir=ram if gpu and ram.exists() else None) as folder:
        model = actor.save_model(options.shape, Path(folder), dtype, device)
        workers = actor.Actor(actor.configuration(setting, model, len(rows), options.override), device)
    skip = options.skip_old_log_prob
    found: dict[float, list[tuple[actor.Seconds, float]]] = {0.0: [], 1.0e-3: []}
    for repeat in tqdm(range(options.repeats + 1), desc="pairs of steps", disable=None):
        if repeat > 1 and time.monotonic() - began > options.seconds:
            break
        for alpha, results in found.items():
            memory = Peak(device)
            seconds = workers.step(rows, alpha, skip)
            if repeat:  # the first of each kind starts caches
                results.append((seconds, memory.read()))
    loss = min(workers.loss_seconds(rows, alpha=1.0e-3) for _ in range(2))

    floors = floor.step_floor(
        rows, floor.cost_of(actor.model_config(options.shape)), setting.checkpointing, options.group_size
    )
    where = {
        "device": device_name(device),
        "shape": options.shape,
        "dtype": setting.dtype,
        "attention": setting.attention,
        "remove_padding": setting.remove_padding,
        "checkpointing": setting.checkpointing,
        "micro_batch": f"{setting.token_budget} tokens"
        if setting.token_budget
        else f"{setting.micro_batch} rows",
        "groups": options.groups,
        "group_size": options.group_size,
        "old_log_prob": "skipped" if skip else "computed",
        "override": " ".join(options.override),
    }
    plain, ours = found.values()
    row = where | summary(plain, ours, loss, rows, floors, peak, 1 if skip else 2)
    print(json.dumps(row, indent=2))
    append_rows(options.csv, [row])
    if options.profile:
        options.profile.write_text(workers.profile_teacher(rows, alpha=1.0e-3))
    return row


def summary(
    plain: Sequence[tuple[actor.Seconds, float]],
    ours: Sequence[tuple[actor.Seconds, float]],
    loss: float,
    rows: Sequence[trajectories.Rollout],
    floors: floor.StepFloor,
    peak: float,
    log_prob_passes: int,
) -> dict[str, Any]:
    """Return the medians over repeats; ratios and ``update_extra_s`` are of neighbouring steps.

    ``update_extra_s`` is what the update with the SD loss takes beside the teacher pass and GRPO's update; ``loss_s``
    is the SD loss's own code, timed directly.
    """

    def median(of: Sequence[tuple[actor.Seconds, float]], part: Callable[[actor.Seconds], float]) -> float:
        return statistics.median(part(seconds) for seconds, _ in of)

    ratios = [b.actor / a.actor for (a, _), (b, _) in zip(plain, ours, strict=True)]
    q25, _, q75 = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    update, with_sd = (median(of, lambda s: s.update) for of in (plain, ours))
    teacher = median(ours, lambda s: s.teacher)
    extra = statistics.median(
        b.update - b.teacher - a.update for (a, _), (b, _) in zip(plain, ours, strict=True)
    )
    grpo = log_prob_passes * floors.log_prob + floors.update
    tokens = sum(len(row.prompt_ids) + len(row.response_ids) for row in rows)
    values = {
        "old_log_prob_s": median([*plain, *ours], lambda s: s.old_log_prob),
        "reference_s": median([*plain, *ours], lambda s: s.reference),
        "update_s": update,
        "update_with_sd_s": with_sd,
        "teacher_s": teacher,
        "update_extra_s": extra,
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
        "teacher_over_log_prob": (teacher / floors.teacher)
        / (median([*plain, *ours], lambda s: s.reference) / floors.log_prob),
        "peak_extra_gb": statistics.median(m for _, m in ours) - statistics.median(m for _, m in plain),
        "peak_gb": statistics.median(m for _, m in plain),
        "tokens_per_s": tokens / median(ours, lambda s: s.actor),
    }
    counts = {
        "repeats": len(plain),
        "tokens": tokens,
        "teacher_tokens": sum(len(r.input_ids) for row in rows for r in row.teacher.rows),
        "query_tokens": sum(row.lengths.query_tokens for row in rows),
    }
    return counts | {name: round(value, 4) for name, value in values.items()}


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--shape", choices=actor.SHAPES, default="tiny", help="shape of the model (default: %(default)s)"
    )
    parser.add_argument(
        "--groups", type=int, default=4, metavar="QUESTIONS", help="questions a step (default: %(default)s)"
    )
    parser.add_argument(
        "--group-size",
        type=int,
        default=5,
        metavar="ROLLOUTS",
        help="rollouts a question (default: %(default)s)",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        metavar="PAIRS",
        help="measured pairs of steps (default: %(default)s)",
    )
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
    parser.add_argument(
        "--micro-batch",
        type=int,
        default=10,
        metavar="ROWS",
        help="rows a micro-batch without a token budget (default: %(default)s)",
    )
    parser.add_argument(
        "--skip-old-log-prob", action="store_true", help="as with rollout_correction.bypass_mode"
    )
    parser.add_argument(
        "--override", action="append", default=[], help="a Hydra override; may be repeated (default: none)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="SEED",
        help="seed of weights and lengths (default: %(default)s)",
    )
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
    parser.add_argument(
        "--csv", type=Path, default=HERE / "actor_step.csv", help="file to append to (default: %(default)s)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
