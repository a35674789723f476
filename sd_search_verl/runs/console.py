"""A training step as one line of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ALARM = "health/alarm/"


def format_step(metrics: Mapping[str, Any]) -> str:
    """Return the line of a step, given its metrics and ``step``; absent metrics are left out."""

    def show(label: str, metric: str, spec: str = ".3f") -> str:
        return f"{label} {metrics[metric]:{spec}}" if metric in metrics else ""

    raised = [name.removeprefix(_ALARM) for name in metrics if name.startswith(_ALARM) and metrics[name]]
    parts = [
        f"step {metrics['step']:>4.0f}",
        show("reward", "critic/score/mean"),
        show("EM", "search/em"),
        show("searches", "search/searches_per_rollout", ".2f"),
        show("gold found", "search/gold_in_documents", ".2f"),
        show("failed searches", "search/failures", ".0f") if metrics.get("search/failures") else "",
        show("alpha", "sd_search/alpha", ".3g"),
        show("JSD", "sd_search/jsd", ".4f"),
        show("entropy gap", "sd_search/entropy_gap", "+.3f"),
        f"{metrics['timing_s/step']:.1f} s" if "timing_s/step" in metrics else "",
        f"! {', '.join(raised)}" if raised else "",
    ]
    return "  ".join(part for part in parts if part)
