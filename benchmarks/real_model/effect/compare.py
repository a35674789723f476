"""Compare finished runs: each measure after an arm, beside its start and the controls of the same start.

Controls are the arms without L_SD and with flipped labels, paired by seed. A difference is one number a question or
group, its mean over seeds; the interval is a bootstrap over questions. Beside it stands the number of seeds in which
the difference of means has the sign of the whole.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.real_model.effect.runs import Arm
from sd_search_verl.evaluation.statistics import bootstrap

MEASURES = ("margins", "training_margins", "gold", "f1", "em", "searches")
Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Arm -> seed -> result."""


def read_results(folder: Path) -> Results:
    """Return the finished runs of a folder."""
    found: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for path in sorted(folder.glob("*.json")):
        arm, _, seed = path.stem.rpartition("-")
        found[arm][int(seed)] = json.loads(path.read_text())
    return found


def compare(
    results: Results, before: Mapping[str, Mapping[str, Any]], arms: Mapping[str, Arm]
) -> list[dict[str, object]]:
    """Return a row per arm and measure, change against its start, and per pair of arms and measure."""
    rows = []
    for measure in MEASURES:
        measured = {
            name: {
                seed: found["after"][measure] for seed, found in seeds.items() if measure in found["after"]
            }
            for name, seeds in results.items()
        }
        for name, seeds in measured.items():
            first = before[arms[name].start]["after"].get(measure)
            if seeds and first:
                rows.append(
                    _row(measure, name, "its start", {seed: (first, after) for seed, after in seeds.items()})
                )
        for name, other in _pairs(results, arms):
            shared = sorted(measured[name].keys() & measured[other].keys())
            if shared:
                pairs = {seed: (measured[other][seed], measured[name][seed]) for seed in shared}
                rows.append(_row(measure, name, other, pairs))
    return rows


def _pairs(results: Results, arms: Mapping[str, Arm]) -> list[tuple[str, str]]:
    """Return every other arm beside those of the same start without L_SD and with flipped labels."""
    controls = [
        name
        for name in results
        if not arms[name].method.alpha or arms[name].method.hindsight.labels == "flipped"
    ]
    return [
        (name, control)
        for control in sorted(controls, key=lambda name: arms[name].method.alpha)
        for name in results
        if arms[name].method.alpha and name != control and arms[name].start == arms[control].start
    ]


def _row(
    measure: str, arm: str, beside: str, pairs: Mapping[int, tuple[Sequence[float], Sequence[float]]]
) -> dict[str, object]:
    differences = [[b - a for a, b in zip(*pair, strict=True)] for pair in pairs.values()]
    found = bootstrap([fmean(of_question) for of_question in zip(*differences, strict=True)])
    by_seed = [fmean(of_seed) for of_seed in differences]
    return {
        "measure": measure,
        "arm": arm,
        "beside": beside,
        "seeds": len(pairs),
        "value": round(fmean(fmean(after) for _, after in pairs.values()), 4),
        "difference": round(found.mean, 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
        "n": found.n,
        "seeds_with_sign": sum(value * found.mean > 0 for value in by_seed),
        "by_seed": " ".join(f"{value:+.4f}" for value in by_seed),
    }
