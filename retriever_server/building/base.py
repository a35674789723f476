"""What every builder gets and may raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[int, int], None]
"""Called with (passages done, passages in all)."""


class BuildError(RuntimeError):
    """A build failed. The message says why; what was finished is kept for the next try."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of the builders; each reads those that concern it."""

    threads: int = 1
    heap_mb: int = 2048
    """Largest Java heap while building."""
    one_segment: bool = False
    """Merge Lucene's index into one segment: slower to build, faster to search."""
