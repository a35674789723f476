"""Turns as numbers: a turn is an unbroken run of policy tokens in a response, between two observations."""

from __future__ import annotations

import torch
from torch import Tensor


def turn_numbers(mask: Tensor) -> Tensor:
    """Return the number of each policy token's turn, counted through all rows: ``[N]`` for N policy tokens.

    Args:
        mask: ``[B, T]``, True at policy tokens.
    """
    before = torch.nn.functional.pad(mask[:, :-1], (1, 0))
    starts = mask & ~before
    return (starts.flatten().cumsum(0) - 1)[mask.flatten()]


def row_numbers(mask: Tensor) -> Tensor:
    """Return the number of each policy token's row, ``[N]``, from ``[B, T]``."""
    return mask.nonzero()[:, 0]


def sums(values: Tensor, numbers: Tensor) -> Tensor:
    """Return at each of N tokens the sum of ``values`` ``[N]`` over the tokens with the same number."""
    return torch.zeros_like(values).index_add_(0, numbers, values)[numbers]
