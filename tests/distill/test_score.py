"""The chunked pass that finds value and gradient together."""

from __future__ import annotations

import pytest
import torch
from support.reference import naive_divergence

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.score import score
from sd_search_verl.distill.targets import keep

GRID = [
    (kind, top_k, support, tail)
    for kind in ("jsd", "forward_kl", "reverse_kl", "mse")
    for top_k in (1, 5, None)
    for support in ("teacher", "union")
    for tail in ("bucket", "renormalize")
]


def scored(
    logits: torch.Tensor, teacher: torch.Tensor, config: SDSearchConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    student = logits.clone().requires_grad_()
    values = score(student, keep(teacher, config), config).divergence
    weights = torch.linspace(0.5, 2.0, len(values))
    (gradient,) = torch.autograd.grad((values * weights).sum(), student)
    return values.detach(), gradient


@pytest.mark.parametrize(("kind", "top_k", "support", "tail"), GRID)
def test_chunks_change_nothing(kind: str, top_k: int | None, support: str, tail: str) -> None:
    student, teacher = 3 * torch.randn(7, 40), 3 * torch.randn(7, 40)

    def at(chunk_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        config = SDSearchConfig(
            divergence=kind,  # type: ignore[arg-type]
            top_k=top_k,
            support=support,  # type: ignore[arg-type]
            tail=tail,  # type: ignore[arg-type]
            chunk_rows=chunk_rows,
        )
        return scored(student, teacher, config)

    for whole, cut in zip(at(100), at(3), strict=True):
        torch.testing.assert_close(whole, cut)


def test_bf16_against_fp32() -> None:
    """Logits in bf16: the divergence is that of the rounded logits, the gradient is rounded once more."""
    config = SDSearchConfig(top_k=5)
    student, teacher = (3 * torch.randn(20, 200).bfloat16() for _ in range(2))
    low, exact = scored(student, teacher, config), scored(student.float(), teacher.float(), config)
    torch.testing.assert_close(low[0], exact[0])
    assert low[1].dtype == torch.bfloat16
    assert float((low[1].float() - exact[1]).norm() / exact[1].norm()) < 2**-7


def test_a_second_backward_is_refused() -> None:
    config = SDSearchConfig()
    student = torch.randn(2, 90, requires_grad=True)
    total = score(student, keep(torch.randn(2, 90), config), config).divergence.sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def test_not_a_number_stays_one() -> None:
    config = SDSearchConfig()
    student = torch.randn(2, 90)
    student[1, 3] = torch.nan
    values = score(student, keep(torch.randn(2, 90), config), config).divergence
    assert torch.isfinite(values[0])
    assert torch.isnan(values[1])


def test_gradient_of_two_chunks_against_the_naive_twin() -> None:
    config = SDSearchConfig(top_k=5, chunk_rows=2)
    student, teacher = 3 * torch.randn(3, 30), 3 * torch.randn(3, 30)
    values, gradient = scored(student, teacher, config)
    naive = student.clone().requires_grad_()
    expected = torch.stack(
        [naive_divergence(naive[i], teacher[i], "jsd", 5, "teacher", "bucket") for i in range(3)]
    )
    (expected * torch.linspace(0.5, 2.0, 3)).sum().backward()
    torch.testing.assert_close(values, expected.detach().float(), rtol=1e-5, atol=1e-6)
    assert naive.grad is not None
    torch.testing.assert_close(gradient, naive.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("top_k", [None, 5])
def test_entries_that_both_rule_out_count_nowhere(top_k: int | None) -> None:
    draw = torch.Generator().manual_seed(11)
    student, teacher = (torch.randn(6, 60, generator=draw) for _ in range(2))
    config = SDSearchConfig(top_k=top_k)
    whole, part = (
        score(ours, keep(theirs, config), config)
        for ours, theirs in (
            [x.index_fill(1, torch.arange(50, 60), -torch.inf) for x in (student, teacher)],
            [student[:, :50], teacher[:, :50]],
        )
    )
    torch.testing.assert_close(whole.divergence, part.divergence)
    torch.testing.assert_close(whole.entropy, part.entropy)
    assert torch.equal(whole.top1_agrees, part.top1_agrees)
