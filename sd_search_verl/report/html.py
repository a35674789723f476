"""Write the page: template, style, scripts and data in one file that needs no network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sd_search_verl.report import curves, trajectories
from sd_search_verl.report.run_names import Run, read_runs
from sd_search_verl.runs.schema import METRICS_FILE, TRACES_FILE

_HERE = Path(__file__).parent
_SCRIPTS = ("page.js", "curves.js", "viewer.js")
MAX_ROLLOUTS = 10_000


def write_report(runs: Sequence[Path], out: Path, max_rollouts: int = MAX_ROLLOUTS) -> Path:
    """Write one HTML page about run folders; return the file.

    Args:
        runs: folders with ``metrics.jsonl`` and, where trajectories were recorded, ``traces.jsonl``.
        out: as of :func:`write_page`; ``max_rollouts`` likewise.

    Raises:
        UserError: a folder without metrics or without a finished step, or one given twice.
    """
    return write_page(read_runs(runs), out, max_rollouts)


def write_page(
    runs: Sequence[Run], out: Path, max_rollouts: int = MAX_ROLLOUTS, differences: Sequence[str] = ()
) -> Path:
    """Write one HTML page about runs, which works offline; return the file.

    Args:
        runs: as :func:`.read_runs` returns them.
        out: the file, or a folder for ``report.html``.
        max_rollouts: largest number of trajectories in the page; beyond it whole groups are left out evenly.
        differences: sentences about the runs beside each other, shown above the curves.
    """
    viewer = trajectories.build(runs, max_rollouts)
    data = {
        "headline": _headline(runs, viewer),
        "runs": [_summary(run) for run in runs],
        "differences": list(differences),
        "curves": curves.build(runs),
        "viewer": viewer,
    }
    page = fill(
        (_HERE / "template.html").read_text(encoding="utf-8"),
        {
            "css": (_HERE / "report.css").read_text(encoding="utf-8"),
            "js": "\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS),
            "data": script_json(data),
        },
    )
    out = out / "report.html" if out.is_dir() else out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def script_json(data: Any) -> str:
    """Return JSON for a script element: plain ASCII without ``<``, so that no text can end the element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def fill(template: str, values: dict[str, str]) -> str:
    """Replace each ``{{name}}`` by its value, in one pass: braces within a value stay unchanged."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _headline(runs: Sequence[Run], viewer: dict[str, Any]) -> str:
    shown, recorded = len(viewer["rollouts"]), viewer["recorded"]
    rollouts = f"{recorded:,} recorded rollouts" + (f" ({shown:,} of them here)" if shown < recorded else "")
    if len(runs) > 1:
        series = len({run.series for run in runs})
        return f"{len(runs)} runs in {series} series · {rollouts}"
    (run,) = runs
    parts = [run.name, f"{_trained(run):,} steps", rollouts]
    parts += [
        f"{label} {_change(run, metric)}" for label, metric in (("reward", curves.REWARD), ("EM", curves.EM))
    ]
    return " · ".join([*parts, _alpha(run)])


def _summary(run: Run) -> dict[str, Any]:
    steps = run.metrics.steps
    missing = (
        []
        if run.traces.path.is_file()
        else [f"{TRACES_FILE} is missing: search.traces_per_step was 0, or it was moved"]
    )
    written = datetime.fromtimestamp((run.traces.path.parent / METRICS_FILE).stat().st_mtime, tz=UTC)
    return {
        "name": run.name,
        "series": run.series,
        "steps": f"{_trained(run):,} ({min(steps)} to {max(steps)})",
        "rollouts": f"{len(run.traces.refs):,}",
        "reward": _change(run, curves.REWARD),
        "em": _change(run, curves.EM),
        "alpha": _alpha(run),
        "source": f"{METRICS_FILE} of {written:%Y-%m-%d %H:%M} UTC",
        "notes": [
            *missing,
            *run.metrics.counts.notes(METRICS_FILE),
            *run.traces.counts.notes(TRACES_FILE),
            *curves.non_finite(run),
        ],
    }


def _trained(run: Run) -> int:
    """Return the number of training steps; step 0 is a validation."""
    return sum(step > 0 for step in run.metrics.steps)


def _change(run: Run, metric: str) -> str:
    values = [row[metric] for row in run.metrics.steps.values() if metric in row]
    return f"{values[0]:.3f} → {values[-1]:.3f}" if values else "not recorded"


def _alpha(run: Run) -> str:
    alphas = {step: row[curves.ALPHA] for step, row in run.metrics.steps.items() if curves.ALPHA in row}
    if not alphas:
        return "α not recorded"
    taught = [step for step, alpha in alphas.items() if alpha > 0]
    if not taught:
        return "α 0 throughout"
    until = "" if alphas[max(alphas)] > 0 else f" to {max(taught)}"
    return f"α {_range(alphas[step] for step in taught)} from step {min(taught)}{until}"


def _range(values: Iterable[float]) -> str:
    """Return the value, or the smallest and the largest of several."""
    low, *others = sorted(set(values))
    return f"{low:g} to {others[-1]:g}" if others else f"{low:g}"
