"""How large alpha * L_SD's gradient is beside GRPO's, and how much of it bf16 keeps.

    python -m benchmarks.correctness.grad_share                shares, cosines, errors; appends to grad_share.csv
    python -m benchmarks.correctness.grad_share --repeats 9    also times an update, the share, each variant

verl's engine with a small untied model of random weights and rollouts of recorded lengths, the documents masked, ratios
of 1. With g the gradient of GRPO and s that of L_SD, both in fp32, and G(alpha) the update's gradient in bf16:

    share      |alpha s| / |g|
    cosine     between G(alpha) - G(0), what the method adds in bf16, and s
    error      |G(alpha) - G(0) - alpha s| / |alpha s|
    sum_error  |G(alpha) - g - alpha s| / |alpha s|: the rounding of GRPO's own gradient is in it

Variants of bf16: the product; the rows' gradient added to the logits' in fp32 and rounded once; logits and head in
fp32; L_SD in a backward of its own, as it is and scaled by 2^10.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("VERL_PLATFORM", "cpu")  # verl reads it when it is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from torch import Tensor
from tqdm import tqdm

from benchmarks.arguments import add_option, command_parser
from benchmarks.correctness.fp32_paths import head_in_fp32, rows_added_in_fp32
from benchmarks.correctness.gradients import DEVICE, Engine, draw_rollouts, save_model
from benchmarks.machine import device_name
from benchmarks.spread import quartiles
from benchmarks.table import append_rows

CSV = Path(__file__).resolve().with_suffix(".csv")
FIELDS = [
    *("device", "seed", "rollouts", "alpha", "variant", "share", "cosine", "error", "sum_error"),
    "seconds_ratio",
]
ALPHAS = (1e-3, 1e-2, 1e-1, 1.0)
SCALE = 1024.0


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, append."""
    parser = command_parser(__doc__)
    add_option(parser, "--seeds", 5, "each draws model, rollouts and outcomes", "SEEDS")
    add_option(parser, "--groups", 1, "of five rollouts each in the mini-batch", "QUESTIONS")
    add_option(parser, "--repeats", 0, "rounds that time the variants in turns", "TIMES")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for seed in tqdm(range(options.seeds), desc="seeds", disable=None):
        with tempfile.TemporaryDirectory() as folder:
            model = save_model(Path(folder), seed)
            found = list(_rows_of_seed(model, seed, options.groups))
            if options.repeats and not seed:
                found += _times(model, options.groups, options.repeats)
        append_rows(CSV, found, FIELDS)
        rows += found
    _print(rows)


def _rows_of_seed(model: Path, seed: int, groups: int) -> Iterator[dict[str, Any]]:
    rollouts = draw_rollouts(groups, seed)
    fp32 = Engine(model, "fp32", rollouts, seed)
    policy, method = fp32.gradient(0.0), fp32.gradient(1.0, policy=False)
    del fp32
    bf16 = Engine(model, "bf16", rollouts, seed)
    plain = bf16.gradient(0.0)
    for alpha in ALPHAS:
        exact = alpha * method
        for variant, base, added in _variants(bf16, alpha, plain):
            yield {
                "device": device_name(DEVICE),
                "seed": seed,
                "rollouts": len(rollouts),
                "alpha": alpha,
                "variant": variant,
                "share": _figure(exact.norm() / policy.norm()),
                "cosine": _figure(added @ exact / added.norm() / exact.norm()),
                "error": _figure((added - exact).norm() / exact.norm()),
                "sum_error": _figure((base + added - policy - exact).norm() / exact.norm()),
            }


def _variants(engine: Engine, alpha: float, plain: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield each variant's name, its gradient of GRPO alone (``plain`` is the product's), and what L_SD adds."""
    yield "product", plain, engine.gradient(alpha) - plain
    with rows_added_in_fp32():
        yield "rows added in fp32", plain, engine.gradient(alpha) - plain
    with head_in_fp32(engine.engine.module):
        base = engine.gradient(0.0)
        yield "head in fp32", base, engine.gradient(alpha) - base
    yield "own backward", plain, engine.gradient(alpha, policy=False)
    yield "own backward, scaled", plain, engine.gradient(alpha * SCALE, policy=False) / SCALE


def _times(model: Path, groups: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield seconds of the process relative to the product's update, in turns."""
    engine = Engine(model, "bf16", draw_rollouts(groups, 0), 0)

    def own_backward() -> None:
        engine.update(1e-3)
        engine.update(0.0)  # one more forward and backward over the mini-batch

    def added_in_fp32() -> None:
        with rows_added_in_fp32():
            engine.update(1e-3)

    def fp32_head() -> None:
        with head_in_fp32(engine.engine.module):
            engine.update(1e-3)

    variants: dict[str, Callable[[], Any]] = {
        "product": lambda: engine.update(1e-3),
        "rows added in fp32": added_in_fp32,
        "head in fp32": fp32_head,
        "own backward": own_backward,
        "share measured": lambda: engine.update(1e-3, measure=True),
    }
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        taken = {}
        for name, run in variants.items():
            start = time.process_time()
            run()
            taken[name] = time.process_time() - start
        for name, seconds in taken.items():
            if repeat:  # the first of each kind starts caches
                ratios[name].append(seconds / taken["product"])
    for name, values in ratios.items():
        q25, middle, q75 = quartiles(values)
        print(f"{name:22} {middle:.2f} of the product's update (quartiles {q25:.2f} to {q75:.2f})")
        row = {"device": device_name(DEVICE), "variant": name, "alpha": 1e-3}
        yield row | {"seconds_ratio": _figure(middle)}


def _figure(value: Any) -> float:
    return float(f"{float(value):.4g}")


def _print(rows: Sequence[dict[str, Any]]) -> None:
    """Print the median of each kind of row over seeds, with the smallest and the largest."""
    kinds = {(row["alpha"], row["variant"]): None for row in rows if "cosine" in row}
    for alpha, variant in kinds:
        of = [row for row in rows if (row["alpha"], row["variant"]) == (alpha, variant) and "cosine" in row]
        parts = []
        for name in ("share", "cosine", "error", "sum_error"):
            values = [row[name] for row in of]
            parts.append(f"{name} {statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})")
        print(f"alpha {alpha:g}, {variant}: " + ", ".join(parts))


if __name__ == "__main__":
    main()
