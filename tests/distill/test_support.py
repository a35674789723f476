"""The stored targets of the teacher are small, and agree with loops over its distribution."""

from __future__ import annotations

import math

import pytest
import torch

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.divergence import divergence_and_stats
from sd_search_verl.distill.support import teacher_targets


def test_top_k_keeps_little() -> None:
    targets = teacher_targets(torch.randn(10, 5000), SDSearchConfig(top_k=50))
    assert sum(rows[0].numel() for rows in targets.tensors()) < 110
    assert all(len(rows) == 10 for rows in targets.tensors())


@pytest.mark.parametrize("support", ["teacher", "union"])
@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
@pytest.mark.parametrize("top_k", [3, None])
def test_descriptions_against_loops(support: str, tail: str, top_k: int | None) -> None:
    config = SDSearchConfig(top_k=top_k, support=support, tail=tail, chunk_rows=3)  # type: ignore[arg-type]
    student, teacher, tokens = torch.randn(4, 9), torch.randn(4, 9), torch.tensor([0, 8, 3, 3])
    kept = teacher_targets(teacher, config, tokens)
    _, found = divergence_and_stats(student, kept, config, tokens)
    assert kept.token_log_prob is not None
    for i, token in enumerate(tokens.tolist()):
        q, p = torch.softmax(student[i], 0).tolist(), torch.softmax(teacher[i], 0).tolist()
        assert math.isclose(float(found.entropy[i]), -sum(x * math.log(x) for x in q), rel_tol=1e-5)
        assert math.isclose(float(kept.entropy[i]), -sum(x * math.log(x) for x in p), rel_tol=1e-5)
        assert math.isclose(float(kept.top_k_mass[i]), sum(sorted(p)[-(top_k or 9) :]), rel_tol=1e-5)
        assert bool(found.top1_agrees[i]) == (q.index(max(q)) == p.index(max(p)))
        assert math.isclose(float(found.token_log_prob[i]), math.log(q[token]), rel_tol=1e-5)
        assert math.isclose(float(kept.token_log_prob[i]), math.log(p[token]), rel_tol=1e-5)


@pytest.mark.parametrize("top_k", [3, None])
def test_no_positions(top_k: int | None) -> None:
    empty, config = torch.zeros(0, 9), SDSearchConfig(top_k=top_k)
    targets = teacher_targets(empty, config)
    values, found = divergence_and_stats(empty, targets, config)
    assert all(column.shape == (0,) for column in (values, found.entropy, found.top1_agrees))
