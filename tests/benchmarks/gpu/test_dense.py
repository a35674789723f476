"""The part of the run on a card that compares dense search, on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu import plan, results, verdict
from benchmarks.gpu.parts import dense
from benchmarks.gpu.results import Run


@pytest.mark.parametrize(("error", "status"), [(0.0, "RIGHT"), (0.2, "WRONG")])
def test_encoder_and_scan_are_compared_and_timed(tmp_path: Path, error: float, status: str) -> None:
    results.start(tmp_path)
    dense.run(Run("dense", "cpu", 0, tmp_path, 90.0, error))
    rows = results.read(tmp_path)
    assert [finding.status for finding in verdict.findings([plan.DENSE], rows, [])] == [status, status]
    timed = [row.case for row in rows if row.measure == "seconds"]
    assert timed == [f"scan of {count} queries" for count in plan.DENSE_QUERIES]
    assert all(row.value > 0 for row in rows if row.measure == "seconds")
