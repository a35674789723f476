"""Select rows of the logits for a second loss, with a backward that adds to the first loss's gradient in place.

``index_select`` has the same values, but its backward allocates a gradient as large as all logits, zero outside the
rows, which autograd then adds to the first: at 8,192 tokens and V = 152,000, 2.5 GB to allocate and 7.5 GB to move for
a hundred rows.

It relies on undocumented autograd: the node of ``logits`` is reached by ``grad_fn.next_functions`` and given a prehook
(``Node.register_prehook``); the tests fail if a version of torch changes either.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def select_rows(logits: Tensor, index: Tensor) -> Tensor:
    """Return a copy ``[N, V]`` of rows ``index`` ``[N]`` of ``logits`` ``[1, n, V]``, which another loss uses too.

    The gradient of the rows is added in place to the other loss's; without another loss the backward raises. The rows
    are copied because the other loss may overwrite the logits in its backward, as flash-attention's cross entropy does.

    Args:
        logits: a view that was made for this call of the tensor ``[n, V]`` that the other loss is computed from.
        index: distinct rows.
    """
    pending: list[tuple[Tensor, Tensor]] = []
    rows: Tensor = _SelectRows.apply(logits, index, pending)
    if not rows.requires_grad:
        return rows

    def add(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor]:
        (total,) = gradients
        if total is None:
            raise RuntimeError(
                "select_rows adds to the gradient of another loss on the logits; there is none"
            )
        total = total.contiguous()
        for at, gradient in pending:
            add_rows(total.view(-1, total.shape[-1]), at, gradient)
        pending.clear()
        return (total,)

    assert logits.grad_fn is not None
    source = logits.grad_fn.next_functions[0][0]
    assert source is not None
    source.register_prehook(add)
    return rows


def add_rows(total: Tensor, index: Tensor, rows: Tensor) -> None:
    """Add ``rows`` ``[N, V]`` to the distinct rows ``index`` of ``total`` ``[n, V]``, in place.

    ``index_add_`` does the same by atomic additions, which distinct rows do not need.
    """
    total.index_copy_(0, index, total.index_select(0, index).add_(rows.to(total.dtype)))


class _SelectRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, pending: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.index, ctx.pending = index, pending
        return logits[0].index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        # None carries no gradient, but autograd still runs this node before the node that produced the logits.
        ctx.pending.append((ctx.index, gradient))
        return None, None, None
