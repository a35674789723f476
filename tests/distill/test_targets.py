"""What is kept of the teacher gives the divergence of its whole logits, at a fraction of their size."""

from __future__ import annotations

import math

import pytest
import torch

from sd_search_verl.distill import targets as kept
from sd_search_verl.distill.divergence import divergence
from sd_search_verl.distill.targets import diagnostics, divergence_to, keep

GRID = [
    (kind, top_k, support, tail)
    for kind in ("jsd", "forward_kl", "reverse_kl", "mse")
    for top_k in (1, 5, None)
    for support in ("teacher", "union")
    for tail in ("bucket", "renormalize")
]


@pytest.mark.parametrize(("kind", "top_k", "support", "tail"), GRID)
def test_the_divergence_of_the_whole_logits(
    kind: str, top_k: int | None, support: str, tail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "CHUNK_ROWS", 3)  # several chunks, the last one short
    student, teacher = 3 * torch.randn(7, 40), 3 * torch.randn(7, 40)
    left, right = student.clone().requires_grad_(), student.clone().requires_grad_()
    targets = keep(teacher, top_k, support, tail)  # type: ignore[arg-type]
    ours = divergence_to(targets, left, kind, top_k, support, tail)  # type: ignore[arg-type]
    whole = divergence(right, teacher, kind, top_k, support, tail)  # type: ignore[arg-type]
    assert torch.equal(ours, whole)
    (g1,), (g2,) = torch.autograd.grad(ours.sum(), left), torch.autograd.grad(whole.sum(), right)
    assert torch.equal(g1, g2)


def test_top_k_keeps_little() -> None:
    targets = keep(torch.randn(10, 5000), 50, "teacher", "bucket")
    assert sum(rows[0].numel() for rows in targets.values()) < 110
    assert all(len(rows) == 10 for rows in targets.values())


@pytest.mark.parametrize("support", ["teacher", "union"])
def test_diagnostics_against_loops(support: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "CHUNK_ROWS", 3)
    student, teacher = torch.randn(4, 9), torch.randn(4, 9)
    found = diagnostics(keep(teacher, 3, support, "bucket"), student, 3)  # type: ignore[arg-type]
    for i in range(4):
        q, p = torch.softmax(student[i], 0).tolist(), torch.softmax(teacher[i], 0).tolist()
        assert math.isclose(
            float(found["student_entropy"][i]), -sum(x * math.log(x) for x in q), rel_tol=1e-5
        )
        assert math.isclose(
            float(found["teacher_entropy"][i]), -sum(x * math.log(x) for x in p), rel_tol=1e-5
        )
        assert math.isclose(float(found["top_k_mass"][i]), sum(sorted(p)[-3:]), rel_tol=1e-5)
        assert bool(found["teacher_student_top1"][i]) == (q.index(max(q)) == p.index(max(p)))


@pytest.mark.parametrize("top_k", [3, None])
def test_no_positions(top_k: int | None) -> None:
    empty = torch.zeros(0, 9)
    targets = keep(empty, top_k, "teacher", "bucket")
    assert divergence_to(targets, empty, "jsd", top_k, "teacher", "bucket").shape == (0,)
    assert all(column.shape == (0,) for column in diagnostics(targets, empty, top_k).values())
