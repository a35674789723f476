"""The divergence forward and backward from hidden states against others, beside its bars."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.cost import divergence
from benchmarks.gpu.plan import MEMORY, OURS, SECONDS, SIZES
from benchmarks.gpu.results import Run

OTHERS = ("naive", "trl", "liger chunked", "liger triton")


def run(run: Run) -> None:
    """Run one size after the other, so that finished sizes are kept."""
    common = ["--repeats", "5" if run.gpu else "1", "--csv", str(run.out / "divergence.csv")]
    for rows in SIZES:
        size = ["--hidden", "2048", "--rows", str(rows)] if run.gpu else _tiny(rows)
        found = {row["contender"]: row for row in divergence.main([*size, *common])}
        others = [found[name] for name in OTHERS if name in found]
        absent = [name for name in OTHERS if name not in found]
        for name in OURS:
            case, detail = f"{rows} rows, {name}", _all_figures([found[name], *others], absent)
            for measure, of in ((SECONDS, "total_s"), (MEMORY, "extra_gb")):
                run.record(case, measure, _ratio(found[name], others, of), detail, incomplete=bool(absent))


def _tiny(rows: int) -> list[str]:
    """Return the same sizes in small, of 1 to 256 rows."""
    return ["--hidden", "64", "--vocab", "4096", "--rows", str(rows // SIZES[0])]


def _ratio(ours: dict[str, Any], others: list[dict[str, Any]], of: str) -> float:
    """Return ours over the least of the others; whoever ran out of memory counts as infinite."""
    least = min((_finite(row[of]) for row in others), default=math.inf)
    own = _finite(ours[of])
    return own / least if least else math.inf


def _finite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _all_figures(rows: list[dict[str, Any]], absent: list[str]) -> str:
    figures = [f"{r['contender']} {1e3 * r['total_s']:.3g} ms {r['extra_gb']:.3g} GB" for r in rows]
    return ", ".join([*figures, *(f"without {name}" for name in absent)])
