"""Divergences against the naive twin, their limits and gradients, and the chunked pass that makes both."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reference import naive_divergence

from sd_search_verl.config import Divergence, SDSearchConfig
from sd_search_verl.distill.divergence import divergence, divergence_and_stats

KINDS = get_args(Divergence)
GRID = list(itertools.product(KINDS, (1, 2, 7, 50, None), ("teacher", "union"), ("bucket", "renormalize")))
CHUNK_GRID = list(itertools.product(KINDS, (1, 5, None), ("teacher", "union"), ("bucket", "renormalize")))


def logits(seed: int, rows: int = 6, size: int = 60, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(scale * torch.randn(rows, size, generator=generator) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize(("kind", "top_k", "support", "tail"), GRID)
def test_value_and_gradient_equal_the_naive_twin(
    kind: str, top_k: int | None, support: str, tail: str
) -> None:
    student, teacher = logits(1)
    ours, naive = student.clone().requires_grad_(), student.clone().requires_grad_()
    values = divergence(ours, teacher, kind, top_k, support, tail)  # type: ignore[arg-type]
    expected = torch.stack(
        [naive_divergence(naive[i], teacher[i], kind, top_k, support, tail) for i in range(6)]
    )
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected.float(), rtol=1e-5, atol=1e-6)
    values.sum().backward()
    expected.sum().backward()
    assert ours.grad is not None
    # Relative to the gradient's size; what remains of a vanishing gradient is fp32 rounding.
    assert float((ours.grad - naive.grad).norm()) <= 1e-5 * float(naive.grad.norm()) + 1e-6


@pytest.mark.parametrize(("kind", "top_k", "support", "tail"), GRID)
def test_equal_distributions_have_no_divergence(
    kind: str, top_k: int | None, support: str, tail: str
) -> None:
    student, _ = logits(2)
    values = divergence(student, student + 5.0, kind, top_k, support, tail)  # type: ignore[arg-type]
    assert float(values.max()) <= 1e-6


def test_the_students_own_logits_teach_exactly_nothing() -> None:
    student, _ = logits(6)
    values = divergence(student.requires_grad_(), student.detach(), "jsd", None)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert values.count_nonzero() == 0
    assert gradient.count_nonzero() == 0


def test_close_distributions_keep_their_digits() -> None:
    student, change = logits(7)
    teacher = student + 1e-3 * change  # a divergence of about 1e-6
    values = divergence(student, teacher, "jsd", None)
    expected = [naive_divergence(student[i], teacher[i], "jsd", None, "teacher", "bucket") for i in range(6)]
    torch.testing.assert_close(values, torch.stack(expected).float(), rtol=5e-3, atol=0.0)


@settings(deadline=None)  # a shared machine has no steady clock
@given(st.integers(0, 1000), st.sampled_from([1.0, 10.0, 200.0]))
def test_jsd_is_symmetric_and_bounded(seed: int, scale: float) -> None:
    student, teacher = logits(seed, scale=scale)
    left, right = divergence(student, teacher, top_k=None), divergence(teacher, student, top_k=None)
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
    assert float(left.min()) >= 0
    assert float(left.max()) <= math.log(2) + 1e-6


@settings(deadline=None)
@given(
    st.integers(0, 1000), st.sampled_from(["bucket", "renormalize"]), st.sampled_from(["teacher", "union"])
)
def test_extreme_logits_stay_finite(seed: int, tail: str, support: str) -> None:
    student, teacher = logits(seed, scale=300.0)
    student.requires_grad_()
    for kind in KINDS:
        values = divergence(student, teacher, kind, 5, support, tail)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(values.sum(), student)
        assert torch.isfinite(values).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("kind", "top_k"), [*((kind, None) for kind in KINDS), ("jsd", 5)])
def test_entries_that_both_rule_out_do_not_count(kind: str, top_k: int | None) -> None:
    student, teacher = (x.index_fill(1, torch.arange(50, 60), -math.inf) for x in logits(8))
    student.requires_grad_()
    values = divergence(student, teacher, kind, top_k)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(values.sum(), student)
    torch.testing.assert_close(values, divergence(student[:, :50], teacher[:, :50], kind, top_k))  # type: ignore[arg-type]
    assert torch.isfinite(gradient).all()
    assert gradient[:, 50:].count_nonzero() == 0


@pytest.mark.parametrize("support", ["teacher", "union"])
@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
@pytest.mark.parametrize("kind", ["jsd", "mse"])
def test_an_entry_of_the_support_that_the_student_rules_out(kind: str, support: str, tail: str) -> None:
    student, teacher = logits(8)
    student[:, teacher[0].topk(2).indices] = -math.inf
    nearly = student.clamp_min(-1e4)
    options = (kind, 5, support, tail)
    found = []
    for values in (student.requires_grad_(), nearly.requires_grad_()):
        result = divergence(values, teacher, *options)  # type: ignore[arg-type]
        found.append((result, *torch.autograd.grad(result.sum(), values)))
    for ruled_out, expected in zip(*found, strict=True):
        torch.testing.assert_close(ruled_out, expected)


def test_union_that_covers_the_vocabulary() -> None:
    student, teacher = logits(3, size=6)
    student.requires_grad_()
    values = divergence(student, teacher, "jsd", 5, "union", "bucket")
    torch.testing.assert_close(values, divergence(student, teacher, "jsd", None), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert torch.isfinite(gradient).all()


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = logits(4)
    student.requires_grad_()
    teacher.requires_grad_()
    divergence(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_half_precision_is_compared_in_fp32() -> None:
    student, teacher = (x.bfloat16() for x in logits(5))
    torch.testing.assert_close(divergence(student, teacher), divergence(student.float(), teacher.float()))


def test_no_positions() -> None:
    empty = torch.zeros(0, 60)
    assert divergence(empty, empty).shape == (0,)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\[N, V\]"):
        divergence(torch.zeros(2, 5), torch.zeros(3, 5))


def scored(
    logits: torch.Tensor, teacher: torch.Tensor, config: SDSearchConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    student = logits.clone().requires_grad_()
    values = divergence(
        student,
        teacher,
        config.divergence,
        config.top_k,
        config.support,
        config.tail,
        chunk_rows=config.chunk_rows,
    )
    weights = torch.linspace(0.5, 2.0, len(values))
    (gradient,) = torch.autograd.grad((values * weights).sum(), student)
    return values.detach(), gradient


@pytest.mark.parametrize(("kind", "top_k", "support", "tail"), CHUNK_GRID)
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
    student = torch.randn(2, 90, requires_grad=True)
    total = divergence(student, torch.randn(2, 90)).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def test_not_a_number_stays_one() -> None:
    student = torch.randn(2, 90)
    student[1, 3] = torch.nan
    values = divergence(student, torch.randn(2, 90))
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
    found = []
    for ours, theirs in (
        [x.index_fill(1, torch.arange(50, 60), -torch.inf) for x in (student, teacher)],
        [student[:, :50], teacher[:, :50]],
    ):
        values, stats = divergence_and_stats(ours, theirs, SDSearchConfig(top_k=top_k))
        found.append((values, stats.entropy, stats.top1_agrees))
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(whole, part)
