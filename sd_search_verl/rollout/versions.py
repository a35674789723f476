"""Which weights sampled which token: a rollout that was interrupted and resumed has tokens of several versions.

A version is the training step that made the weights. The policy that trains at step s has version s - 1, so a token of
version v is s - 1 - v versions old.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence

from sd_search_verl.rollout.types import Rollout


def version_at(rollout: Rollout, token: int) -> int | None:
    """Return the version of the weights that sampled response token ``token``, or None if it is not known."""
    run = bisect_right(rollout.versions, token, key=lambda run: run[0]) - 1
    return rollout.versions[run][1] if run >= 0 else None


def query_versions(rollout: Rollout) -> list[int]:
    """Return the known versions of the query tokens that the policy is trained on (mask 1), in order."""
    tokens = [j for start, end in rollout.spans for j in range(start, end) if rollout.response_mask[j]]
    return [version for version in (version_at(rollout, j) for j in tokens) if version is not None]


def mask_older_than(rollout: Rollout, oldest: int) -> Rollout:
    """Return the rollout with mask 0 at the tokens of weights older than version ``oldest``."""
    mask = list(rollout.response_mask)
    ends = [start for start, _ in rollout.versions[1:]] + [len(mask)]
    for (start, version), end in zip(rollout.versions, ends, strict=False):
        if version < oldest:
            mask[start:end] = [0] * (end - start)
    return dataclasses.replace(rollout, response_mask=mask)


def mask_stale(rollouts: Sequence[Rollout], version: int, limit: int | None) -> list[Rollout]:
    """Return the rollouts with mask 0 at the tokens that are too old to be distilled.

    Args:
        version: of the policy.
        limit: versions that a token may be behind it; None = any.
    """
    if limit is None:
        return [*rollouts]
    return [mask_older_than(rollout, version - limit) for rollout in rollouts]
