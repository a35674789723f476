"""The moving average of the trained weights, as teacher in their place (``teacher=ema``).

average <- decay * average + (1 - decay) * weights        before every mini-batch; at first the weights themselves
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """One copy of this rank's part of the trained weights."""

    def __init__(self) -> None:
        self.values: list[Tensor] | None = None

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """Move the average towards the weights."""
        weights = _trained(module)
        if self.values is None:
            self.values = [weight.clone() for weight in weights]
        for average, weight in zip(self.values, weights, strict=True):
            average.lerp_(weight.to(average.device), 1 - decay)

    @contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """Give the module the average's weights while the context lasts."""
        self._swap(module)
        try:
            yield
        finally:
            self._swap(module)

    @torch.no_grad()
    def _swap(self, module: nn.Module) -> None:
        assert self.values is not None
        for average, weight in zip(self.values, _trained(module), strict=True):
            before = weight.clone()
            weight.copy_(average)
            average.copy_(before)


def _trained(module: nn.Module) -> list[Tensor]:
    """Return the trained parameters, of sharded ones this rank's shard; changes in place reach the module."""
    trained = [parameter.data for parameter in module.parameters() if parameter.requires_grad]
    return [data.to_local() if hasattr(data, "to_local") else data for data in trained]
