"""The Jensen-Shannon divergence and its gradient, from hidden states: ours against Liger, TRL and a naive version.

    python -m benchmarks.cost.divergence                        the GPU's sizes on a GPU, small ones on a CPU
    PYTHONPATH=LIBS python -m benchmarks.cost.divergence        with liger-kernel and trl, installed by
    pip install --no-deps --target LIBS liger-kernel trl

All take turns. They make the logits of N query rows by one head, for a student and a teacher, and go back to the
student's hidden states and the head. ``top-k`` compares the teacher's 50 likeliest entries and the rest as one more;
all others compare the whole vocabulary. Appends to ``benchmarks/cost/divergence.csv`` or ``--csv``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.arguments import add_option, command_parser
from benchmarks.cost.floor import now
from benchmarks.cost.peak import Peak
from benchmarks.machine import device_name
from benchmarks.table import append_rows
from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.divergence import divergence
from sd_search_verl.distill.support import teacher_targets

CSV = Path(__file__).resolve().with_suffix(".csv")

Contender = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Student's hidden states ``[N, H]``, teacher's, head ``[V, H]``: the mean divergence."""

FIELDS = [
    *("device", "dtype", "hidden", "vocab", "rows", "contender"),
    *("forward_s", "total_s", "extra_gb", "spread"),
]


def ours(top_k: int | None) -> Contender:
    """Run this project's divergence with its default chunk."""
    config = SDSearchConfig(top_k=top_k)

    def run(student: Tensor, teacher: Tensor, head: Tensor) -> Tensor:
        with torch.no_grad():
            targets = teacher_targets(teacher @ head.T, config)
        return divergence(student @ head.T, targets, top_k=top_k).mean()

    return run


def naive(student: Tensor, teacher: Tensor, head: Tensor) -> Tensor:
    """Run the formula as it is written."""
    with torch.no_grad():
        p = (teacher @ head.T).float().softmax(-1)
    q = (student @ head.T).float().softmax(-1)
    m = (p + q) / 2
    return (0.5 * (p * (p / m).log() + q * (q / m).log())).sum(-1).mean()


def contenders(device: str) -> dict[str, Contender]:
    """Return the implementations that can run here; print which cannot, and why."""
    found: dict[str, Contender] = {"ours top-k": ours(50), "ours": ours(None), "naive": naive}
    try:
        from trl.experimental.gkd.gkd_trainer import GKDTrainer
    except ImportError as error:
        print(f"without TRL: {error}")
    else:

        def trl(student: Tensor, teacher: Tensor, head: Tensor) -> Tensor:
            with torch.no_grad():
                teacher_logits = (teacher @ head.T).float()
            loss: Tensor = GKDTrainer.generalized_jsd_loss((student @ head.T).float(), teacher_logits)
            return loss

        found["trl"] = trl
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
        from liger_kernel.transformers import LigerFusedLinearJSD
    except ImportError as error:
        print(f"without Liger: {error}")
        return found
    chunked = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=device == "cuda")
    found["liger chunked"] = lambda student, teacher, head: chunked(
        student, head, teacher, head, torch.zeros(len(student), dtype=torch.long, device=device)
    )
    if device == "cuda":
        fused = LigerFusedLinearJSD()
        found["liger triton"] = lambda student, teacher, head: fused(student, head, teacher, head, None)
    else:
        print("without Liger's Triton kernel: it needs a GPU")
    return found


Sample = tuple[float, float, float]
"""Seconds of the forward, of forward and backward, and gigabytes of peak memory above what stood before."""


def sample(run: Contender, inputs: tuple[Tensor, Tensor, Tensor], device: str) -> Sample:
    """Measure one turn; memory is infinite where it did not suffice."""
    student, _, head = inputs
    student.grad = head.grad = None
    memory = Peak(device)
    before = memory.read()
    start = now(device)
    try:
        loss = run(*inputs)
        middle = now(device)
        loss.backward()
    except torch.OutOfMemoryError:
        return math.nan, math.nan, math.inf
    end = now(device)
    return middle - start, end - start, memory.read() - before


def summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Return medians, and the spread of the total relative to its median."""
    forwards, totals, peaks = zip(*samples, strict=True)
    total = statistics.median(totals)
    return {
        "forward_s": statistics.median(forwards),
        "total_s": total,
        "extra_gb": statistics.median(peaks),
        "spread": (max(totals) - min(totals)) / total,
    }


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure every contender at every size, print and append; the rows."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = device == "cuda"
    parser = command_parser(__doc__)
    sizes = [2**i for i in range(6, 15)] if gpu else [16, 64, 256]
    add_option(parser, "--rows", sizes, "scored tokens", "TOKENS")
    add_option(parser, "--hidden", [2048, 3584] if gpu else [64], "width of the last layer", "NUMBERS")
    add_option(parser, "--vocab", 151936 if gpu else 16384, "size of the vocabulary", "TOKENS")
    add_option(parser, "--repeats", 10 if gpu else 5, "repeats of each measurement", "TIMES")
    add_option(parser, "--csv", CSV, "file to append to")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if gpu else torch.float32
    written: list[dict[str, Any]] = []
    pairs = list(product(options.hidden, options.rows))
    for hidden, rows in tqdm(pairs, desc="sizes", disable=None):
        head = (torch.randn(options.vocab, hidden, device=device) / hidden**0.5).to(dtype).requires_grad_()
        student, teacher = (2 * torch.randn(rows, hidden, device=device) for _ in range(2))
        inputs = (student.to(dtype).requires_grad_(), teacher.to(dtype), head)
        running = contenders(device)
        found: dict[str, list[Sample]] = {name: [] for name in running}
        for _ in range(options.repeats + 1):
            for name, run in running.items():
                found[name].append(sample(run, inputs, device))
        for name, (_, *samples) in found.items():  # the first warms up
            where = {"device": device_name(device), "dtype": str(dtype).removeprefix("torch.")}
            row = where | {"hidden": hidden, "vocab": options.vocab, "rows": rows, "contender": name}
            row |= {key: round(value, 6) for key, value in summary(samples).items()}
            print(row)
            append_rows(options.csv, [row], FIELDS)
            written.append(row)
    return written


if __name__ == "__main__":
    main()
