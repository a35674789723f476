"""A training step as one line that a person can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ALARM = "health/alarm/"


def describe(metrics: Mapping[str, Any]) -> str:
    """The line of a step, from its metrics and ``step``; what is not there is left out."""

    def show(name: str, key: str, form: str = ".3f") -> str:
        return f"{name} {metrics[key]:{form}}" if key in metrics else ""

    raised = [key.removeprefix(_ALARM) for key in metrics if key.startswith(_ALARM) and metrics[key]]
    parts = [
        f"step {metrics['step']:>4.0f}",
        show("reward", "critic/score/mean"),
        show("EM", "search/em"),
        show("searches", "search/searches_per_rollout", ".2f"),
        show("gold found", "search/gold_in_documents", ".2f"),
        show("alpha", "sd_search/alpha", ".3g"),
        show("JSD", "sd_search/jsd", ".4f"),
        show("entropy gap", "sd_search/entropy_gap", "+.3f"),
        f"{metrics['timing_s/step']:.1f} s" if "timing_s/step" in metrics else "",
        f"! {', '.join(raised)}" if raised else "",
    ]
    return "  ".join(part for part in parts if part)
