"""Label sensitivity and copy share against their definitions, rollout by rollout."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

from sd_search_verl.distill.labels import label_measures, label_sums

COUNTS = torch.tensor([3, 0, 1, 4])
CORRECT = torch.tensor([True, True, False, False])
TRUE, FLIPPED = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


def test_the_measures_are_their_definitions() -> None:
    rollouts = zip(TRUE.split([*COUNTS]), FLIPPED.split([*COUNTS]), strict=True)
    signed = [
        (1 if correct else -1) * float((true - flipped).mean())
        for (true, flipped), correct in zip(rollouts, CORRECT, strict=True)
        if len(true)
    ]
    copied, labelled = float((TRUE + FLIPPED).abs().sum()), float((TRUE - FLIPPED).abs().sum())
    sensitivity, share = label_measures(label_sums(TRUE, TRUE - FLIPPED, COUNTS, CORRECT))
    assert sensitivity == pytest.approx(fmean(signed), rel=1e-5)
    assert share == pytest.approx(copied / (copied + labelled), rel=1e-5)


def test_sums_of_parts_are_those_of_the_whole() -> None:
    shift = TRUE - FLIPPED
    parts = [
        label_sums(TRUE[:3], shift[:3], COUNTS[:2], CORRECT[:2]),
        label_sums(TRUE[3:], shift[3:], COUNTS[2:], CORRECT[2:]),
    ]
    assert torch.allclose(sum(parts), label_sums(TRUE, shift, COUNTS, CORRECT))


def test_a_block_that_changes_nothing_copies_nothing() -> None:
    nothing = torch.zeros(8)
    assert label_measures(label_sums(nothing, nothing, COUNTS, CORRECT)) == (0.0, 0.0)
    assert label_measures(label_sums(nothing[:0], nothing[:0], COUNTS[:0], CORRECT[:0])) == (0.0, 0.0)
