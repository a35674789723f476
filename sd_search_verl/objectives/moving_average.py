"""The moving average of the trained weights, as teacher in their place (``teacher=ema``).

average <- decay * average + (1 - decay) * weights        before every mini-batch; at first the weights themselves

It is kept in fp32: in bf16 a step of 5 % of a small gap rounds to nothing, and the average would never move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """One copy of this rank's part of the trained weights, in fp32 and on their device."""

    def __init__(self) -> None:
        self.values: list[Tensor] | None = None

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """Move the average towards the weights."""
        weights = _trained(module)
        before = weights if self.values is None else self.values
        self.values = [
            average.to(weight.device, torch.float32, copy=average is weight).lerp_(weight.float(), 1 - decay)
            for average, weight in zip(before, weights, strict=True)
        ]

    @contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """Give the module the average's weights, rounded to its type, while the context lasts."""
        assert self.values is not None
        weights = _trained(module)
        live = [weight.clone() for weight in weights]
        _copy(self.values, weights)
        try:
            yield
        finally:
            _copy(live, weights)


@torch.no_grad()
def _copy(values: Iterable[Tensor], to: Iterable[Tensor]) -> None:
    for value, weight in zip(values, to, strict=True):
        weight.copy_(value)


def _trained(module: nn.Module) -> list[Tensor]:
    """Return the trained parameters, of sharded ones this rank's shard; changes in place reach the module."""
    trained = [parameter.data for parameter in module.parameters() if parameter.requires_grad]
    return [data.to_local() if hasattr(data, "to_local") else data for data in trained]
