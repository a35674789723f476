"""One pass over rows of logits on a GPU: what :mod:`.support` and :mod:`.divergence` compute, by Triton kernels.

A kernel reads logits ``[N, V]`` in their own type, computes in fp32 registers, and writes ``[N, K]`` numbers or the
gradient; the plain version moves some fifteen fp32 copies of the logits through the GPU's memory. Same equations, equal
to rounding. :func:`usable` says where the kernels run; everywhere else the plain version does.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import torch
from torch import Tensor

from sd_search_verl.config import Divergence
from sd_search_verl.distill import kernels

_BLOCK, _WARPS = 4096, 16
_KINDS = {kind: number for number, kind in enumerate(get_args(Divergence))}  # as of kernels.terms


def usable(logits: Tensor) -> bool:
    """Return whether the kernels run on ``logits``: on a CUDA device, and not on a stand-in for a tensor."""
    return logits.is_cuda and type(logits) is Tensor and kernels.available and _can_be_built()


@lru_cache(maxsize=1)
def _can_be_built() -> bool:
    """Try a kernel, once a process: Triton needs a C compiler and Python's headers where it runs."""
    try:
        row_log_probs(torch.zeros(1, 2, device="cuda"), None)
    except Exception as error:
        warnings.warn(
            f"the divergence runs without its Triton kernels, right but slower: {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False
    return True


@dataclass(frozen=True)
class RowLogProbs:
    """What one pass over rows of logits finds; ``[N]`` and ``[N, 1]`` in fp32.

    Attributes:
        log_probs: ``[N, K]`` on the support or, with the tail's bucket last, ``[N, K + 1]``; without a support
            ``[N, 0]``.
        entropy: ``[N]`` nats, of the whole distribution.
        top1: ``[N]``, the most likely token, the first of equals.
        logsumexp: ``[N, 1]``, of the whole row.
        tail_log_prob: ``[N, 1]``, log-probability of the entries outside the support.
        highest: ``[N, 1]``, the highest logit.
        tail_logsumexp: ``[N, 1]``, of the logits outside the support, less the highest.
    """

    log_probs: Tensor
    entropy: Tensor
    top1: Tensor
    logsumexp: Tensor
    tail_log_prob: Tensor
    highest: Tensor
    tail_logsumexp: Tensor


def row_log_probs(
    logits: Tensor, index: Tensor | None, bucket: bool = True, ascending: Tensor | None = None
) -> RowLogProbs:
    """Read logits ``[N, V]`` once.

    Args:
        logits: any float type.
        index: the support, ``[N, K]``, -1 at entries that do not count; None for no support.
        bucket: whether the tail is one more entry; the support is renormalised otherwise.
        ascending: ``[N, K]``, the entries that count in ascending order, repeated at will; default: ``index``.
    """
    (rows, vocab), count = logits.shape, 0 if index is None else index.shape[-1]
    logits = _with_unit_stride(logits)
    floats = logits.new_empty(5, rows, 1, dtype=torch.float32)
    top1 = torch.empty(rows, dtype=torch.long, device=logits.device)
    width = 0 if index is None else count + bucket
    log_probs = logits.new_empty(rows, width, dtype=torch.float32)
    if rows:
        pointers = (top1, top1, top1)  # any: the kernel follows none of them without a support
        if index is not None:
            index = index.contiguous()
            pointers = (index, index if ascending is None else ascending.contiguous(), log_probs)
        sizes = (vocab, count, _power_of_2(count), bucket, _BLOCK)
        arguments = (logits, logits.stride(0), *pointers, top1, *floats, *sizes)
        _launch(kernels.row_log_probs, (rows,), _WARPS, *arguments)
    entropy, logsumexp, tail_log_prob, highest, tail_logsumexp = floats
    return RowLogProbs(
        log_probs, entropy.squeeze(-1), top1, logsumexp, tail_log_prob, highest, tail_logsumexp
    )


def support_divergence(log_p: Tensor, log_q: Tensor, index: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return divergences ``[N]`` on a support, and their derivative to the student's logits there and to the tail's.

    Args:
        log_p: the teacher's log-probabilities, ``[N, K]`` or ``[N, K + 1]`` fp32.
        log_q: the student's.
        index: ``[N, K]``, -1 at entries that do not count.
        kind: see :mod:`.divergence`.

    Returns:
        ``[N]``; ``[N, K]`` or ``[N, K + 1]``, the last for the sum of the tail's logits, to be shared out among them.
    """
    rows, width = log_q.shape
    values, gradient = log_q.new_empty(rows), torch.empty_like(log_q)
    if rows:
        sizes = (width, index.shape[-1], _power_of_2(width), _KINDS[kind])
        inputs = (log_p.contiguous(), log_q.contiguous(), index.contiguous())
        _launch(kernels.support_divergence, (rows,), 1, *inputs, values, gradient, *sizes)
    return values, gradient


def write_gradient(
    logits: Tensor, student: RowLogProbs, index: Tensor, gradient: Tensor, out: Tensor
) -> None:
    """Write the derivative to all logits to ``out`` ``[N, V]``, given :func:`support_divergence`'s."""
    (rows, vocab), count = logits.shape, index.shape[-1]
    if not rows:
        return
    logits = _with_unit_stride(logits)
    if gradient.shape[-1] > count:
        tail = (student.highest, student.tail_logsumexp, gradient, gradient.stride(0), out, out.stride(0))
        grid = (rows, -(-vocab // _BLOCK))
        _launch(kernels.tail_gradient, grid, 8, logits, logits.stride(0), *tail, vocab, count, _BLOCK)
    else:
        out.zero_()
    where = (index.contiguous(), gradient, gradient.stride(0), out, out.stride(0))
    _launch(kernels.write_support, (rows,), 1, *where, count, _power_of_2(count))


def whole_divergence(
    student: Tensor,
    teacher: Tensor,
    kind: str,
    of_student: RowLogProbs,
    of_teacher: RowLogProbs,
    out: Tensor | None,
) -> Tensor:
    """Return divergences ``[N]`` over the whole vocabulary; write their derivative to the student's logits to ``out``.

    Args:
        student: logits ``[N, V]``; ``teacher`` likewise.
        kind: see :mod:`.divergence`.
        of_student: :func:`row_log_probs` without a support; ``of_teacher`` likewise.
        out: ``[N, V]``, or None.
    """
    rows, vocab = student.shape
    student, teacher = _with_unit_stride(student), _with_unit_stride(teacher)
    values, totals = student.new_empty(2, rows, dtype=torch.float32)
    if not rows:
        return values
    shifts = [x for found in (of_student, of_teacher) for x in (found.highest, found.tail_logsumexp)]
    inputs = (student, student.stride(0), teacher, teacher.stride(0), *shifts)
    sizes = (vocab, _KINDS[kind], _BLOCK)
    arguments = (*inputs, values, totals, *sizes)
    _launch(kernels.whole_sums, (rows,), _WARPS, *arguments)
    if out is not None:
        arguments = (*inputs, totals, out, out.stride(0), *sizes)
        _launch(kernels.whole_gradient, (rows, -(-vocab // _BLOCK)), 8, *arguments)
    return values


def _launch(kernel: Any, grid: tuple[int, ...], warps: int, first: Tensor, *others: Any) -> None:
    """Run a kernel on the device of its first argument; Triton itself takes the current one."""
    elsewhere = first.is_cuda and first.device.index != torch.cuda.current_device()
    with torch.cuda.device_of(first) if elsewhere else nullcontext():
        kernel[grid](first, *others, num_warps=warps)


def _with_unit_stride(logits: Tensor) -> Tensor:
    return logits if logits.stride(-1) == 1 else logits.contiguous()


def _power_of_2(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
