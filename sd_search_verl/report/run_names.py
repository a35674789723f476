"""Short names of run folders, and the series that a run is a seed of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sd_search_verl.errors import UserError
from sd_search_verl.runs.reader import Metrics, Traces, read_metrics, read_traces

_SEED = re.compile(r"[-_]seed(\d+)$")


@dataclass(frozen=True)
class Run:
    """One run. Runs whose names differ only in a trailing ``-seedN`` are seeds of one ``series``."""

    name: str
    metrics: Metrics
    traces: Traces

    @property
    def series(self) -> str:
        """The name without its seed."""
        return _SEED.sub("", self.name) or self.name

    @property
    def seed(self) -> str:
        """The N of a name that ends with ``-seedN``, else the empty text."""
        found = _SEED.search(self.name) if self.series != self.name else None
        return found[1] if found else ""


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read every folder.

    Raises:
        UserError: a folder without metrics; no folder, or one given twice, or one without a finished step.
    """
    if not folders:
        raise UserError("no run folder given")
    names = run_names(folders)
    return [
        Run(name, read_metrics(folder), read_traces(folder))
        for name, folder in zip(names, folders, strict=True)
    ]


def by_series(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of every series, both in the order given."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.series, []).append(run)
    return found


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest path suffixes that distinguish the folders.

    Raises:
        UserError: a folder is given twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    for one in parts:
        if parts.count(one) > 1:
            raise UserError(f"{Path(*one)} is given twice")
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(one) for one in parts]
