"""One page from all rows: right or wrong, the cost beside its bars, and what was not run and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import fill

from benchmarks.gpu.plan import Check, Part
from benchmarks.gpu.process import Outcome
from benchmarks.gpu.results import Row

WORST_FIRST = ("WRONG", "FAILED", "MISSED", "NOT RUN", "MET", "RIGHT")


@dataclass(frozen=True)
class Finding:
    """A case of a part: its worst status, and the figures beside their bars."""

    part: str
    case: str
    status: str
    text: str
    right: bool


def findings(parts: Iterable[Part], rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[Finding]:
    """Return a finding for every case with a bar, run or not."""
    ended = {outcome.part: outcome for outcome in outcomes}
    found = []
    for part in parts:
        for case in dict.fromkeys(check.case for check in part.checks):
            checks = [check for check in part.checks if check.case == case]
            of = [row for row in rows if (row.part, row.case) == (part.name, case)]
            found.append(_finding(part.name, checks, of, ended.get(part.name)))
    return found


def _finding(part: str, checks: Sequence[Check], rows: Sequence[Row], outcome: Outcome | None) -> Finding:
    judged = [_judge(check, rows, outcome) for check in checks]
    status = min((status for status, _ in judged), key=WORST_FIRST.index)
    others = {row.measure for row in rows} - {check.measure for check in checks} - {""}
    texts = [text for _, text in judged]
    texts += [f"{row.measure} {row.value:.4g}" for row in rows if row.measure in others]
    texts += [row.detail for row in rows if row.measure and row.detail]
    return Finding(part, checks[0].case, status, "; ".join(dict.fromkeys(texts)), checks[0].right)


def _judge(check: Check, rows: Sequence[Row], outcome: Outcome | None) -> tuple[str, str]:
    measured = [row for row in rows if row.measure == check.measure]
    if not measured:
        return _absent(rows, outcome)
    row = measured[-1]
    text = f"{check.measure} {row.value:.4g} (bar {check.bar:g})"
    if not row.value <= check.bar:  # not a number is not below its bar
        return "WRONG" if check.right else "MISSED", text
    if row.state == "incomplete":
        return "NOT RUN", text
    return "RIGHT" if check.right else "MET", text


def _absent(rows: Sequence[Row], outcome: Outcome | None) -> tuple[str, str]:
    """Return status and reason of a missing figure."""
    for row in rows:
        if row.state == "failed":
            return "FAILED", row.detail
        if row.state == "not run":
            return "NOT RUN", row.detail
    if outcome is None:
        return "NOT RUN", "part not asked for"
    return "NOT RUN", "part did not come to it" if outcome.ok else f"part {outcome.state}"


def page(run_name: str, found: Sequence[Finding], rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """Return the verdict as text."""
    lines = [run_name]
    if rows:
        at = rows[0]
        lines.append(
            f"{at.device}: Python {at.python}, torch {at.torch}, verl {at.verl}, transformers {at.transformers}, "
            f"seed {at.seed}, {at.time}"
        )
    lines += ["", "Parts"]
    lines += [f"{o.part:<15} {o.seconds:>6.1f} s of {o.limit_s:>5.1f} s  {o.state}" for o in outcomes]
    for title, right in (("Right or wrong", True), ("Cost", False)):
        lines += ["", title]
        lines += _grouped([finding for finding in found if finding.right == right])
    counts = Counter(finding.status for finding in found)
    lines += ["", ", ".join(f"{status} {counts[status]}" for status in reversed(WORST_FIRST))]
    return "\n".join(lines) + "\n"


def _grouped(found: Sequence[Finding]) -> list[str]:
    """Return a line for each case, wrapped; one line for neighbours not run for the same reason."""
    lines = []
    for (part, status, text), group in groupby(found, key=lambda f: (f.part, f.status, f.text)):
        cases = [finding.case for finding in group]
        if status == "NOT RUN":
            cases = [
                " | ".join(cases)
                if len(cases) < 5
                else f"{cases[0]} | ... | {cases[-1]} ({len(cases)} cases)"
            ]
        lines += [
            fill(f"{status:<8} {part}: {case}: {text}", 118, subsequent_indent=" " * 9) for case in cases
        ]
    return lines


def exit_code(found: Sequence[Finding], outcomes: Sequence[Outcome]) -> int:
    """Return 1 if something is wrong, raised or did not finish; a missed bar of cost is no error."""
    broken = any(finding.status in ("WRONG", "FAILED") for finding in found)
    ended = [outcome for outcome in outcomes if not outcome.ok and outcome.state != "not started"]
    return int(broken or bool(ended))
