"""Results of checks, as `sd-search doctor` and `sd-search check` print them, and the rules they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Result of one check: its name, whether it passed, what it found, and the fix when it failed.

    A ``warning`` is a failed check that does not stop a run.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""
    warning: bool = False

    @property
    def text(self) -> str:
        """What was found, and the fix."""
        return f"{self.found}. Fix: {self.fix}"

    @property
    def fatal(self) -> bool:
        """Whether a run must not start."""
        return not self.ok and not self.warning


@dataclass(frozen=True)
class Rule:
    """A rule for the start of a run; its findings and its line of docs/refused.md have one text.

    Attributes:
        name: the option, or what is checked.
        broken: what is found when the rule is broken, and what follows; ``{words}`` are filled in.
        fix: how to mend it, with the same words.
        warns: say it and start all the same.
    """

    name: str
    broken: str
    fix: str
    warns: bool = False

    def finding(self, **values: Any) -> Finding:
        """Return the finding of a broken rule, its texts filled in."""
        found, fix = self.broken.format(**values), self.fix.format(**values)
        return Finding(self.name.format(**values), False, found, fix, self.warns)


def show(findings: Sequence[Finding]) -> str:
    """Return the findings as a table, with the fixes of the failed ones below it."""
    width = max(len(finding.name) for finding in findings)
    lines = [f"{_mark(f)}  {f.name:<{width}}  {f.found}" for f in findings]
    fixes = [f"{f.name}: {f.fix}" for f in findings if not f.ok]
    return "\n".join(lines + (["", "How to fix:", *fixes] if fixes else []))


def _mark(finding: Finding) -> str:
    if finding.ok:
        return "ok  "
    return "warn" if finding.warning else "FAIL"
