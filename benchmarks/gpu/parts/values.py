"""Every divergence and its gradient against float64, and attention over packed rows against one row at a time.

Logits as peaked as a language model's, of a student and of a teacher that is alike; all combinations of top-k, support
and tail. A gap between the teacher's compared entries and the others makes its top-k the same in every type.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.plan import ERROR, GRADIENT, KINDS
from benchmarks.gpu.results import Run, installed
from sd_search_verl.distill.divergence import divergence

TOP_K = (1, 50, None)
SCALES = (1.0, 2.0)


def run(run: Run) -> None:
    """Record the worst errors of each divergence in each type."""
    try:
        _packed_attention(run)
    except Exception as error:
        run.failed("packed attention", error)
    rows, vocab = (200, 151_936) if run.gpu else (70, 2_000)  # more rows than one chunk
    for dtype, kind in itertools.product((torch.float32, torch.bfloat16), KINDS):
        case = f"{kind} {str(dtype).removeprefix('torch.')}"
        try:
            _divergence(run, case, kind, dtype, rows, vocab)
        except Exception as error:
            run.failed(case, error)


def _divergence(run: Run, case: str, kind: str, dtype: torch.dtype, rows: int, vocab: int) -> None:
    worst: dict[str, tuple[float, str]] = {ERROR: (0.0, ""), GRADIENT: (0.0, "")}
    weights = torch.linspace(0.5, 2.0, rows, device=run.device)
    for scale, choice in itertools.product(SCALES, _choices(dtype)):
        where = f"at scale {scale:g}, " + ", ".join(str(value) for value in choice.values())
        student, teacher = _logits(run, rows, vocab, scale, dtype)
        ours = divergence(student, teacher, kind, **choice) * (1 + run.inject_error)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad((ours * weights).sum(), student)
        exact = student.detach().double().requires_grad_()
        expected = exact_divergence(exact, teacher, kind, **choice)
        (wanted,) = torch.autograd.grad((expected * weights).sum(), exact)
        for measure, error in ((ERROR, relative(ours, expected)), (GRADIENT, relative(gradient, wanted))):
            worst[measure] = max(worst[measure], (error, where))
    for measure, (error, where) in worst.items():
        run.record(case, measure, error, where)


def _choices(dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    for top_k, support, tail in itertools.product(TOP_K, ("teacher", "union"), ("bucket", "renormalize")):
        if top_k is None and (support, tail) != ("teacher", "bucket"):
            continue  # all entries: the same thing
        if (top_k, support, tail) == (1, "teacher", "renormalize"):
            continue  # 0 by construction
        if support == "union" and dtype == torch.bfloat16:
            continue  # the student's k-th entry is not unique among equal logits
        yield {"top_k": top_k, "support": support, "tail": tail}


def _logits(run: Run, rows: int, vocab: int, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Draw logits of student and teacher: probabilities fall with rank to the power 1.5 ``scale``, as in text."""
    draw = torch.Generator(run.device).manual_seed(run.seed)

    def random(kind: Any) -> Tensor:
        return kind(rows, vocab, device=run.device, generator=draw)

    profile = -1.5 * scale * (1 + random(torch.rand).argsort(-1)).log()
    student, teacher = (profile + random(torch.randn) for _ in range(2))
    for top_k in TOP_K:
        if top_k is not None:
            index = teacher.topk(top_k, dim=-1).indices
            teacher.scatter_add_(-1, index, torch.full_like(index, 0.5, dtype=teacher.dtype))
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def exact_divergence(
    student: Tensor, teacher: Tensor, kind: str, top_k: int | None, support: str, tail: str
) -> Tensor:
    """Return divergences ``[N]`` of logits ``[N, V]`` as the formulas are written, in float64."""
    q, p = student.double().softmax(-1), teacher.double().softmax(-1)
    if top_k is not None:
        chosen = torch.zeros_like(p, dtype=torch.bool)
        chosen.scatter_(-1, teacher.topk(top_k, dim=-1).indices, True)
        if support == "union":
            chosen.scatter_(-1, student.topk(top_k, dim=-1).indices, True)
        inside = [torch.where(chosen, x, 0.0) for x in (p, q)]
        outside = [torch.where(chosen, 0.0, x).sum(-1, keepdim=True) for x in (p, q)]
        if tail == "bucket":
            p, q = (torch.cat(parts, -1) for parts in zip(inside, outside, strict=True))
        else:
            p, q = (x / x.sum(-1, keepdim=True) for x in inside)
    if kind == "jsd":
        m = (p + q) / 2
        return (_kl(p, m) + _kl(q, m)) / 2
    if kind == "mse":
        return (p - q).square().sum(-1)
    return _kl(p, q) if kind == "forward_kl" else _kl(q, p)


def _kl(a: Tensor, b: Tensor) -> Tensor:
    smallest = 1e-300
    return torch.where(a > 0, a * (a.clamp_min(smallest) / b.clamp_min(smallest)).log(), 0.0).sum(-1)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Return the norm of the difference over the norm of ``theirs``."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm())


def _packed_attention(run: Run) -> None:
    """Check flash-attn's kernel for rows of unequal length, with fewer key than query heads."""
    if installed("flash_attn") == "-":
        run.not_run("packed attention", "flash-attn is not installed")
        return
    from flash_attn import flash_attn_varlen_func

    lengths, size = [700, 2, 333, 1], 128
    draw = torch.Generator(run.device).manual_seed(run.seed)
    inputs = [
        torch.randn(sum(lengths), heads, size, device=run.device, generator=draw)
        .to(torch.bfloat16)
        .requires_grad_()
        for heads in (16, 2, 2)
    ]
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], device=run.device, dtype=torch.int32)
    up = torch.randn(sum(lengths), 16, size, device=run.device, generator=draw)
    out = flash_attn_varlen_func(*inputs, bounds, bounds, max(lengths), max(lengths), causal=True)
    ours = [out, *torch.autograd.grad((out.float() * up).sum(), inputs)]
    rows = zip(*(x.double().split(lengths) for x in inputs), strict=True)
    exact = torch.cat([_attention(*row) for row in rows])
    theirs = [exact, *torch.autograd.grad((exact * up).sum(), inputs)]
    errors = [relative(a, b) for a, b in zip(ours, theirs, strict=True)]
    run.record(
        "packed attention", GRADIENT, max(errors) + abs(run.inject_error), f"value error {errors[0]:.1e}"
    )


def _attention(*row: Tensor) -> Tensor:
    """Return causal attention; all ``[n, heads, d]``."""
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in row)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)
