"""Find the values of a step that are NaN or infinite."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sd_search_verl.errors import UserError

GRADIENT = "actor/grad_norm"
"""Not finite: verl skipped the update and continued."""

_LOSSES = ("actor/", "sd_search/")


class NonFiniteError(UserError):
    """A loss is NaN or infinite. The message names the metrics, the rollouts and the file with the batch."""


def non_finite_losses(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the actor's and the plugin's metrics that are not finite, except the gradient norm."""
    return sorted(
        name
        for name, value in metrics.items()
        if name.startswith(_LOSSES)
        and name != GRADIENT
        and isinstance(value, numbers.Real)
        and not math.isfinite(value)
    )


def is_skipped_update(metrics: Mapping[str, Any]) -> bool:
    """Return whether verl skipped an update of the step because its gradient was not finite."""
    return not math.isfinite(metrics.get(GRADIENT, 0.0))


def non_finite_rows(fields: Mapping[str, Sequence[Tensor]]) -> dict[int, list[str]]:
    """Return the rows with a value that is not finite, and the names of the fields that hold one.

    Args:
        fields: per field one tensor of any shape for each row.
    """
    found: dict[int, list[str]] = {}
    for name, rows in fields.items():
        for row, values in enumerate(rows):
            if not bool(torch.isfinite(values).all()):
                found.setdefault(row, []).append(name)
    return dict(sorted(found.items()))
