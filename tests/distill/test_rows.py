"""Rows of the logits with a loss of their own get the gradient that plain indexing gives, without its memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sd_search_verl.distill.rows import select_rows

INDEX = torch.tensor([1, 3])


def gradients(select: Callable[[Tensor, Tensor], Tensor], scale: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(size, generator=generator, requires_grad=True) for size in ((5, 3), (3, 7)))
    logits = (hidden @ head).unsqueeze(0).squeeze(0) * scale  # the head's output has a row dimension
    rows = select(logits.unsqueeze(0), INDEX)
    (rows.sin().sum() + logits.log_softmax(-1)[:, 0].sum()).backward()
    return [value.grad for value in (hidden, head) if value.grad is not None]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_gradient_of_plain_indexing(scale: float) -> None:
    ours = gradients(select_rows, scale)
    plain = gradients(lambda logits, index: logits[0][index], scale)
    for left, right in zip(ours, plain, strict=True):
        torch.testing.assert_close(left, right)


def test_the_other_loss_may_overwrite_the_logits() -> None:
    hidden = torch.randn(5, 7, requires_grad=True)
    logits = hidden * 1.0
    rows = select_rows(logits.unsqueeze(0), INDEX)
    logits.data.zero_()
    torch.testing.assert_close(rows.detach(), hidden.detach()[INDEX])


def test_rows_without_another_loss_are_refused() -> None:
    logits = torch.randn(5, 7, requires_grad=True) * 1.0
    with pytest.raises(RuntimeError, match="another loss"):
        select_rows(logits.unsqueeze(0), INDEX).sum().backward()


def test_no_gradient_is_larger_than_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What flows back from the rows to the logits is nothing at all; the rows' own gradient has two rows."""
    sizes = []
    logits = torch.randn(50, 7, requires_grad=True) * 1.0
    view = logits.unsqueeze(0)
    rows = select_rows(view, INDEX)
    view.grad_fn.register_hook(lambda inputs, outputs: sizes.extend(outputs))
    rows.register_hook(lambda gradient: sizes.append(gradient))
    (rows.sum() + logits.log_softmax(-1)[:, 0].sum()).backward()
    assert [None if size is None else tuple(size.shape) for size in sizes] == [(2, 7), None]


def test_no_rows() -> None:
    logits = torch.randn(5, 7, requires_grad=True)
    scaled = logits * 1.0
    rows = select_rows(scaled.unsqueeze(0), torch.zeros(0, dtype=torch.long))
    (rows.sum() + scaled.sum()).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.ones(5, 7))
