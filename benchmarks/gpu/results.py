"""What a part measures: rows of one CSV, each with the machine, the versions and the seed that it came from."""

from __future__ import annotations

import csv
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from benchmarks.machine import device_name

FILE = "results.csv"
State = Literal["measured", "incomplete", "failed", "not run"]


@dataclass(frozen=True)
class Row:
    """One figure, or the reason why there is none.

    Attributes:
        time: UTC, in ISO 8601.
        case: what was tried, within the part.
        measure: what ``value`` is; empty where nothing was measured.
        state: ``incomplete`` if the figure can miss its bar but not meet it, for instance a comparison in which a
            competitor was absent; ``failed`` if the case raised an error.
        detail: further figures, or the error, or why the case was not run.
    """

    time: str
    device: str
    torch: str
    verl: str
    transformers: str
    python: str
    seed: int
    part: str
    case: str
    measure: str
    value: float
    state: State
    detail: str


FIELDS = [field.name for field in fields(Row)]


def installed(name: str) -> str:
    """Return the version of a distribution, or ``-``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


@dataclass(frozen=True)
class Run:
    """What a part is told, and where it writes.

    Attributes:
        device: ``cuda``, or ``cpu`` in a rehearsal at tiny shapes.
        limit_s: seconds after which the part's process is ended.
        inject_error: relative error put into what is checked, to see that the checks notice.
    """

    part: str
    device: str
    seed: int
    out: Path
    limit_s: float
    inject_error: float = 0.0

    @property
    def gpu(self) -> bool:
        """Whether this is no rehearsal."""
        return self.device == "cuda"

    def record(
        self, case: str, measure: str, value: float, detail: str = "", incomplete: bool = False
    ) -> None:
        """Write one figure; what is written stays if the part is ended later."""
        self._append(case, measure, value, "incomplete" if incomplete else "measured", detail)

    def failed(self, case: str, error: BaseException) -> None:
        """Write that a case raised an error; the end of a long message says most."""
        self._append(case, "", float("nan"), "failed", f"{type(error).__name__}: {str(error)[-600:]}")

    def not_run(self, case: str, reason: str) -> None:
        """Write why a case cannot be tried here."""
        self._append(case, "", float("nan"), "not run", reason)

    def _append(self, case: str, measure: str, value: float, state: State, detail: str) -> None:
        row = Row(
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            device=device_name(self.device),
            torch=installed("torch"),
            verl=installed("verl"),
            transformers=installed("transformers"),
            python=platform.python_version(),
            seed=self.seed,
            part=self.part,
            case=case,
            measure=measure,
            value=float(f"{value:.6g}"),
            state=state,
            detail=" ".join(detail.split()),
        )
        print(f"{case}: {measure} {value:.4g} {state} {row.detail}", flush=True)
        with (self.out / FILE).open("a", newline="") as file:
            csv.DictWriter(file, FIELDS).writerow(vars(row))


def start(out: Path) -> None:
    """Make the folder and an empty table in it."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / FILE).open("w", newline="") as file:
        csv.DictWriter(file, FIELDS).writeheader()


def read(out: Path) -> Sequence[Row]:
    """Return all rows written so far."""
    with (out / FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [Row(**{**row, "seed": int(row["seed"]), "value": float(row["value"])}) for row in rows]  # type: ignore[arg-type]
