"""Results of checks, as `sd-search doctor` and `sd-search check` print them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Result of one check: its name, whether it passed, what it found, and the fix when it failed."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def show(findings: Sequence[Finding]) -> str:
    """Return the findings as a table, with the fixes of the failed ones below it."""
    width = max(len(finding.name) for finding in findings)
    lines = [f"{'ok  ' if f.ok else 'FAIL'}  {f.name:<{width}}  {f.found}" for f in findings]
    fixes = [f"{f.name}: {f.fix}" for f in findings if not f.ok]
    return "\n".join(lines + (["", "How to fix:", *fixes] if fixes else []))
