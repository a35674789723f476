"""Memory of a command with all its processes, Ray's included: ``python -m benchmarks.memory.run COMMAND...``.

Prints the largest sums, over samples every 5 s, of proportional set sizes (a shared page is divided among the processes
that share it) and of resident set sizes (it counts in each). Linux.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import uuid
from collections.abc import Sequence

import psutil

from benchmarks.arguments import command_parser

MARK = "RUN_MEMORY_MARK"
"""Variable that every process of the command inherits, those too that Ray detaches from it."""
EVERY_S = 5.0


def peak(command: Sequence[str], every_s: float = EVERY_S) -> tuple[int, float, float]:
    """Run a command and return its exit status, and its largest proportional and resident set size in GB."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(command, env={**os.environ, MARK: mark})
    proportional = resident = 0.0
    while process.poll() is None:
        sizes = [size for one in psutil.process_iter() if (size := _sizes(one, mark))]
        proportional = max(proportional, sum(size[0] for size in sizes) / 1e9)
        resident = max(resident, sum(size[1] for size in sizes) / 1e9)
        try:
            process.wait(every_s)
        except subprocess.TimeoutExpired:
            continue
    return process.returncode, proportional, resident


def _sizes(process: psutil.Process, mark: str) -> tuple[int, int] | None:
    """Return a marked process's proportional and resident set size in bytes; None for others."""
    try:
        if process.environ().get(MARK) != mark:
            return None
        found = process.memory_full_info()
    except psutil.Error:  # it has ended, or is another user's
        return None
    return found.pss, found.rss


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the command's exit status."""
    parser = command_parser(__doc__)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="command and its arguments")
    options = parser.parse_args(argv)
    if not options.command:
        parser.error("give a command")
    status, proportional, resident = peak(options.command)
    print(f"proportional set sizes {proportional:.1f} GB, resident set sizes {resident:.1f} GB at most")
    return status


if __name__ == "__main__":
    sys.exit(main())
