"""The kernels equal the plain formulas: on a GPU as they are, in Triton's interpreter with ``TRITON_INTERPRET=1``."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from support.reference import naive_divergence

from sd_search_verl.config import Divergence, SDSearchConfig
from sd_search_verl.distill import fused, kernels
from sd_search_verl.distill.divergence import divergence, divergence_and_stats
from sd_search_verl.distill.support import teacher_targets

KINDS = get_args(Divergence)
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
VOCAB = 9000  # three blocks, the last one not full


@pytest.fixture(autouse=True)
def _plain_libdevice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace CUDA's own functions, which the interpreter does not have."""
    if not GPU:
        tl = kernels.tl
        plain = SimpleNamespace(log1p=lambda x: tl.log(1.0 + x), expm1=lambda x: tl.exp(x) - 1.0)
        monkeypatch.setattr(kernels, "libdevice", plain)


def draw(seed: int, rows: int = 5) -> torch.Tensor:
    return 3 * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def distributions(logits: torch.Tensor, index: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities ``[N, V]`` in float64, and where a row's support is."""
    inside = torch.zeros_like(logits, dtype=torch.bool)
    for row in range(len(logits) if index is not None else 0):
        inside[row, index[row][index[row] >= 0]] = True  # type: ignore[index]
    return logits.double().log_softmax(-1), inside


@pytest.mark.parametrize("count", [0, 1, 50])
@pytest.mark.parametrize("bucket", [True, False])
def test_row_log_probs(count: int, bucket: bool) -> None:
    logits = draw(0)
    logits[1, 7:900] = -math.inf
    index = logits.topk(count, dim=-1).indices.sort(-1).values if count else None
    ascending = None if index is None else index.clone()
    if count == 50:
        ascending[3, 20:], index[3, 20:] = index[3, 19], -1  # type: ignore[index]
    found = fused.row_log_probs(logits, index, bucket, ascending)
    exact, inside = distributions(logits, index)
    highest, top1 = logits.max(-1, keepdim=True)
    assert torch.equal(found.highest, highest)
    assert torch.equal(found.top1, top1.squeeze(-1))
    near: dict[str, Any] = {"rtol": 2e-6, "atol": 2e-6, "check_dtype": False}
    torch.testing.assert_close(found.logsumexp, logits.double().logsumexp(-1, keepdim=True), **near)
    torch.testing.assert_close(found.entropy, torch.special.entr(exact.exp()).sum(-1), **near)
    tail = exact.masked_fill(inside, -math.inf).logsumexp(-1, keepdim=True)
    torch.testing.assert_close(found.tail_log_prob, tail, **near)
    if index is None:
        assert found.log_probs.shape == (5, 0)
        return
    expected = exact.gather(-1, index.clamp_min(0)).masked_fill(index < 0, -math.inf)
    if not bucket:
        expected = expected - expected.logsumexp(-1, keepdim=True)
    expected = torch.cat([expected, tail], -1) if bucket else expected
    counted = expected > -math.inf
    torch.testing.assert_close(found.log_probs[counted], expected[counted], **near)
    assert float(found.log_probs[~counted].exp().sum()) == 0


def test_what_is_not_a_number_stays_so() -> None:
    logits = draw(1)
    logits[2, 4500] = math.nan
    for index in (None, draw(2).topk(3, dim=-1).indices.sort(-1).values):
        found = fused.row_log_probs(logits, index)
        assert found.entropy.isnan().tolist() == [0, 0, 1, 0, 0]
        assert found.logsumexp.isnan().flatten().tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top_k", "tail"), [(None, "bucket"), (20, "bucket"), (20, "renormalize")])
def test_divergence_and_gradient(kind: str, top_k: int | None, tail: str) -> None:
    student, teacher = draw(3, rows=1).double().requires_grad_(), draw(4, rows=1)  # the naive twin is slow
    expected = torch.stack([naive_divergence(student[0], teacher[0].double(), kind, top_k, "teacher", tail)])
    (gradient,) = torch.autograd.grad(expected.sum(), student)
    index = None if top_k is None else teacher.topk(top_k, dim=-1).indices.sort(-1).values
    logits = student.detach().float()
    ours, theirs = (fused.row_log_probs(rows, index, tail == "bucket") for rows in (logits, teacher))
    out = torch.full_like(logits, math.nan)
    if index is None:
        values = fused.whole_divergence(logits, teacher, kind, ours, theirs, out)
    else:
        values, on_support = fused.support_divergence(theirs.log_probs, ours.log_probs, index, kind)
        fused.write_gradient(logits, ours, index, on_support, out)
    bar = 1e-5 if GPU else 1e-3  # the interpreter's log1p and expm1 are not the kernel's
    assert float((values - expected).norm() / expected.norm()) < bar
    # Relative to the gradient's size; what remains of a vanishing gradient is fp32 rounding.
    assert float((out - gradient).norm()) < bar * float(gradient.norm()) + 1e-6


@pytest.mark.parametrize("top_k", [1, 50, None])
@pytest.mark.parametrize("support", ["teacher", "union"])
@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
def test_kernels_give_what_the_plain_version_gives(
    top_k: int | None, support: str, tail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SDSearchConfig(top_k=top_k, support=support, tail=tail)  # type: ignore[arg-type]
    student, teacher = draw(5), draw(6)
    tokens = torch.arange(5, device=DEVICE)
    found = []
    for usable in (True, False):
        monkeypatch.setattr(fused, "usable", lambda _, usable=usable: usable)
        ours = student.clone().requires_grad_()
        targets = teacher_targets(teacher, config, tokens)
        values, stats = divergence_and_stats(ours, targets, config, tokens)
        (gradient,) = torch.autograd.grad(values.sum(), ours)
        assert targets.token_log_prob is not None
        columns = [values, gradient, stats.entropy, stats.top1_agrees, stats.token_log_prob]
        columns += [targets.entropy, targets.top_k_mass, targets.top1, targets.token_log_prob]
        found.append(columns)
    for kernel, plain in zip(*found, strict=True):
        torch.testing.assert_close(kernel, plain, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["jsd", "mse"])
@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
def test_nothing_is_outside_a_union_that_covers_the_vocabulary(
    kind: str, tail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = draw(9)[:, :6], draw(10)[:, :6]
    found = []
    for usable in (True, False):
        monkeypatch.setattr(fused, "usable", lambda _, usable=usable: usable)
        ours = student.clone().requires_grad_()
        config = SDSearchConfig(divergence=kind, top_k=5, support="union", tail=tail)  # type: ignore[arg-type]
        values, stats = divergence_and_stats(ours, teacher, config)
        found.append([values, *torch.autograd.grad(values.sum(), ours), stats.entropy])
    for kernel, plain in zip(*found, strict=True):
        torch.testing.assert_close(kernel, plain, rtol=2e-5, atol=1e-6)


def test_kernels_take_the_plain_versions_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = draw(7), draw(8)
    monkeypatch.setattr(fused, "usable", lambda _: False)
    targets, expected = teacher_targets(teacher, SDSearchConfig()), divergence(student, teacher)
    monkeypatch.setattr(fused, "usable", lambda _: True)
    torch.testing.assert_close(divergence(student, targets), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("top_k", [3, None])
def test_no_rows(top_k: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "usable", lambda _: True)
    empty = torch.zeros(0, VOCAB, device=DEVICE, requires_grad=True)
    values = divergence(empty, empty.detach(), top_k=top_k)
    (gradient,) = torch.autograd.grad(values.sum(), empty)
    assert values.shape == (0,)
    assert gradient.shape == (0, VOCAB)


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_a_gpu_uses_the_kernels_and_a_cpu_does_not() -> None:
    assert fused.usable(torch.zeros(1, 2, device="cuda"))
    assert not fused.usable(torch.zeros(1, 2))
