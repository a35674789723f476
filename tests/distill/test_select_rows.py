"""Rows of the logits with a loss of their own get the gradient that plain indexing gives, without its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sd_search_verl.distill.select_rows import select_rows

INDEX = torch.tensor([1, 3])
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


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


class InPlaceCrossEntropy(torch.autograd.Function):
    """-log p of each row's target, with the gradient written over the logits, as flash-attention's kernel does."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        ctx.logits, ctx.target = logits, target
        return logits.logsumexp(-1) - logits.gather(-1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        q = ctx.logits.softmax(-1)
        q.scatter_add_(-1, ctx.target[:, None], -torch.ones(len(q), 1, dtype=q.dtype, device=q.device))
        return ctx.logits.data.copy_(q * upstream[:, None]), None


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("rows_first", [True, False])
def test_a_loss_that_overwrites_the_logits_in_its_backward(device: str, rows_first: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(size, generator=generator).to(device) for size in ((6, 4), (4, 11)))
    target, index = torch.tensor([3, 1, 0, 10, 4, 4], device=device), INDEX.to(device)

    def gradients(in_place: bool) -> list[Tensor]:
        inputs = [value.clone().requires_grad_() for value in (hidden, head)]
        logits = inputs[0] @ inputs[1]
        if in_place:
            parts = [select_rows(logits.unsqueeze(0), index).sin().sum()]
            parts.append(InPlaceCrossEntropy.apply(logits, target).sum())
        else:
            parts = [logits[index].sin().sum(), F.cross_entropy(logits, target, reduction="sum")]
        (sum(parts) if rows_first else sum(reversed(parts))).backward()
        return [value.grad for value in inputs if value.grad is not None]

    for ours, plain in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(ours, plain)


@CUDA
def test_flash_attentions_cross_entropy() -> None:
    pytest.importorskip("flash_attn")
    from verl.utils.torch_functional import logprobs_from_logits

    hidden, head = (torch.randn(size, device="cuda") for size in ((64, 32), (32, 1000)))
    target, index = torch.randint(1000, (64,), device="cuda"), INDEX.cuda()

    def gradients(in_place: bool) -> list[Tensor]:
        inputs = [value.clone().requires_grad_() for value in (hidden, head)]
        logits = inputs[0] @ inputs[1]
        rows = select_rows(logits.unsqueeze(0), index) if in_place else logits[index]
        log_probs = logprobs_from_logits(logits, target, inplace_backward=in_place)
        (rows.sin().sum() - log_probs.sum()).backward()
        return [value.grad for value in inputs if value.grad is not None]

    for ours, plain in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


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


def test_a_gradient_that_is_a_view_of_one_number_is_added_to() -> None:
    logits = torch.zeros(5, 7, requires_grad=True)
    scaled = logits * 1.0
    (2 * select_rows(scaled.unsqueeze(0), INDEX).sum() + scaled.sum()).backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].tolist() == [1.0, 3.0, 1.0, 3.0, 1.0]


def test_a_second_backward_adds_the_same_once_more() -> None:
    logits = torch.zeros(5, 7, requires_grad=True)
    scaled = logits * 1.0
    total = select_rows(scaled.unsqueeze(0), INDEX).sum() + scaled.square().sum()
    total.backward(retain_graph=True)
    total.backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].tolist() == [0.0, 2.0, 0.0, 2.0, 0.0]


def test_logits_without_a_gradient() -> None:
    rows = select_rows(torch.arange(10.0).view(1, 5, 2), INDEX)
    assert rows.tolist() == [[2.0, 3.0], [6.0, 7.0]]
    assert not rows.requires_grad


def test_no_rows() -> None:
    logits = torch.randn(5, 7, requires_grad=True)
    scaled = logits * 1.0
    rows = select_rows(scaled.unsqueeze(0), torch.zeros(0, dtype=torch.long))
    (rows.sum() + scaled.sum()).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.ones(5, 7))
