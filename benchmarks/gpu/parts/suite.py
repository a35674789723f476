"""The project's own tests that concern the card, run by pytest."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from benchmarks.gpu.plan import FAILED_TESTS, TESTS
from benchmarks.gpu.results import Run, installed

QUICK = (TESTS[0], "tests/verl_adapter/actor/test_credit.py")
"""Of a rehearsal."""
OPTIONS = "addopts=--import-mode=importlib -m 'not slow' -rfE"


def run(run: Run) -> None:
    """Record how many tests of each target failed."""
    targets = TESTS if run.gpu else QUICK
    for target in set(TESTS) - set(targets):
        run.not_run(target, "not part of a rehearsal")
    arguments = ["-q", "-o", OPTIONS, "-p", "no:cacheprovider", *targets]
    arguments += ["-k", "not ranks"]  # several of them cannot share a card
    if run.gpu and installed("pytest-xdist") != "-":
        arguments += ["-n", "6", "--dist", "loadfile"]
    counted = _Counted()
    code = pytest.main(arguments, plugins=[counted])
    for target in targets:
        found = counted.of(target)
        bad = found["failed"]
        if not sum(map(len, found.values())):
            run.failed(target, RuntimeError(f"no test was run; pytest's exit code {int(code)}, see the log"))
            continue
        names = ", ".join(name.partition("::")[2] for name in bad[:5])
        detail = ", ".join(f"{len(found[outcome])} {outcome}" for outcome in ("passed", "skipped"))
        run.record(target, FAILED_TESTS, len(bad), f"{detail}{': ' if names else ''}{names}")


class _Counted:
    """A pytest plugin: names of tests by outcome."""

    def __init__(self) -> None:
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":  # failures of setup and teardown count
            self._outcomes[report.nodeid] = report.outcome

    def pytest_collectreport(self, report: Any) -> None:
        if report.outcome == "failed":
            self._outcomes[report.nodeid] = "failed"

    def of(self, target: str) -> dict[str, list[str]]:
        """Return the names of a file's or folder's tests by outcome."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, outcome in self._outcomes.items():
            if name.startswith(target):
                found[outcome].append(name)
        return found
