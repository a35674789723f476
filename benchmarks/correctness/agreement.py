"""Gradient of L_SD in verl's FSDP2 engine against plain PyTorch, one row per combination, from a test's own report.

``pytest -n 0 tests/verl_adapter/actor/test_worker.py -k equals_the_reference --junitxml FILE`` measures and
``python -m benchmarks.correctness.agreement FILE`` writes ``benchmarks/correctness/agreement.csv``.
"""

from __future__ import annotations

import argparse
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import add_option
from benchmarks.machine import device_name
from benchmarks.table import write_rows
from sd_search_verl.command_line import Parser, run_command
from sd_search_verl.errors import UserError

CSV = Path(__file__).with_name("agreement.csv")
FIELDS = ("device", "divergence", "top_k", "support", "tail", "relative_difference")
TEST = "test_gradient_equals_the_reference"


def rows(report: Path) -> list[dict[str, str]]:
    """Return the measured combinations of a JUnit report; combinations whose loss is zero have no value.

    Raises:
        UserError: the report has none.
    """
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        values = {item.get("name"): item.get("value") for item in case.iter("property")}
        name = re.fullmatch(rf"{TEST}\[(\w+)-(\w+)-(\w+)-(\w+)\]", case.get("name", ""))
        if name and "relative_difference" in values:
            difference = f"{float(values['relative_difference'] or 0):.2e}"
            found.append(dict(zip(FIELDS, (device_name("cpu"), *name.groups(), difference), strict=True)))
    if not found:
        raise UserError(
            f"{report} has no result of {TEST}; run pytest -k equals_the_reference --junitxml {report}"
        )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser(prog="python -m benchmarks.correctness.agreement", description=__doc__)
    parser.add_argument("report", type=Path, help="JUnit report of the test")
    add_option(parser, "--out", CSV, "CSV", "FILE")
    parser.set_defaults(action=_write)
    return run_command(parser, argv)


def _write(options: argparse.Namespace) -> int:
    found = rows(options.report)
    write_rows(options.out, found)
    largest = max(float(row["relative_difference"]) for row in found)
    print(f"{options.out}: {len(found)} combinations, largest relative difference {largest:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
