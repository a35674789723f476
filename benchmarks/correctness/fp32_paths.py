"""Two other paths of L_SD's gradient through bf16, for ``benchmarks/correctness/grad_share.py``; no option of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from sd_search_verl.distill.select_rows import select_rows
from sd_search_verl.verl_adapter.actor import loss


@contextmanager
def rows_added_in_fp32() -> Iterator[None]:
    """Give L_SD fp32 rows, and add their gradient to the logits' in fp32; the sum is rounded once."""

    def select(logits: Tensor, index: Tensor) -> Tensor:
        pending: list[tuple[Tensor, Tensor]] = []
        rows: Tensor = _Fp32Rows.apply(logits, index, pending)

        def add(gradients: tuple[Tensor, ...]) -> tuple[Tensor]:
            total = gradients[0].contiguous()
            flat = total.view(-1, total.shape[-1])
            for at, gradient in pending:
                flat[at] = (flat[at].float() + gradient).to(flat.dtype)
            pending.clear()
            return (total,)

        assert logits.grad_fn is not None
        source = logits.grad_fn.next_functions[0][0]
        assert source is not None
        source.register_prehook(add)
        return rows

    setattr(loss, "select_rows", select)  # noqa: B010  a name that the loss imports
    try:
        yield
    finally:
        setattr(loss, "select_rows", select_rows)  # noqa: B010


class _Fp32Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, pending: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.index, ctx.pending = index, pending
        return logits[0].index_select(0, index).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ctx.pending.append((ctx.index, gradient))
        return None, None, None


@contextmanager
def head_in_fp32(module: Any) -> Iterator[None]:
    """Compute logits, and the gradient that both losses leave in them, in fp32."""
    head = module.lm_head

    def forward(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return linear(hidden.float(), head.weight.float())

    head.forward = forward
    try:
        yield
    finally:
        del head.forward
