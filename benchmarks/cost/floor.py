"""The floor: floating point operations that a step must do, and what the machine does per second at best.

A decoder of N parameters outside of embedding and head, L layers and attention width D reads a row of n tokens with

    2 N n + 2 L D n^2          (causal attention: half of the full square, scores and values)

operations, and makes the logits of m of them with 2 H V m. A backward costs twice its forward; with gradient
checkpointing the forward of the layers is done once more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from benchmarks.cost.trajectories import Rollout
from benchmarks.shapes import Shape


@dataclass(frozen=True)
class Cost:
    """Operations per token, per squared row length and per row of logits, of one forward."""

    per_token: float
    per_square: float
    per_logits: float

    def forward(self, lengths: Iterable[int], logits: int) -> float:
        """Return the operations to read rows of these lengths and make ``logits`` rows of logits."""
        return sum(self.per_token * n + self.per_square * n * n for n in lengths) + self.per_logits * logits


def cost_of(shape: Shape) -> Cost:
    """Return the :class:`Cost` of a shape."""
    width = shape.heads * shape.head_dim
    return Cost(2.0 * shape.layers * shape.matrices, 2.0 * shape.layers * width, 2.0 * shape.head)


@dataclass(frozen=True)
class StepFloor:
    """Operations of each part of a step.

    teacher_shared: the teacher if a group's prefix (block and prompt) were read once.
    """

    log_prob: float
    update: float
    teacher: float
    teacher_shared: float


def step_floor(rows: Iterable[Rollout], cost: Cost, checkpointing: bool, group_size: int) -> StepFloor:
    """Return the floor of one pass over the rollouts; ``log_prob`` is one of the two passes without gradient."""
    rows = list(rows)
    lengths = [len(row.prompt_ids) + len(row.response_ids) for row in rows]
    forward, layers = cost.forward(lengths, sum(lengths)), cost.forward(lengths, 0)
    scored = [row for row in rows if row.teacher.rows]
    teacher_lengths = [len(row.teacher.rows[0].input_ids) for row in scored]
    queries = sum(row.lengths.query_tokens for row in scored)
    teacher = cost.forward(teacher_lengths, queries)
    saved = 0.0
    for start in range(0, len(rows), group_size):
        group = [row for row in rows[start : start + group_size] if row.teacher.rows]
        if group:
            prefix = len(group[0].teacher.rows[0].input_ids) - group[0].lengths.spans[-1][1]
            saved += (len(group) - 1) * cost.forward([prefix], 0)
    return StepFloor(forward, 3 * forward + (layers if checkpointing else 0), teacher, teacher - saved)


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """Return the operations per second of a square matrix product, the best of ten: the limit of this machine."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = now(device)
        a @ b
        best = min(best, now(device) - start)
    return 2.0 * size**3 / best


def now(device: str) -> float:
    """Return seconds: wall time on a GPU; CPU time of this thread, which other processes do not lengthen, on a CPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
