"""Whether SD-Search is right on this machine's card, and what it costs there.

    python -m benchmarks.gpu --minutes 8               all parts, in order of value, as far as the minutes reach
    python -m benchmarks.gpu --only gradients head     some parts
    python -m benchmarks.gpu --rehearse                all parts at tiny shapes, on the CPU
    python -m benchmarks.gpu --list                    what the parts are
    python -m benchmarks.gpu bundle DIR                collect what a machine without a package index lacks
    python -m benchmarks.gpu --bundle DIR              the run there
    python -m benchmarks.gpu stack-bundle DIR          collect what a whole training run needs too: DIR1, DIR2
    python -m benchmarks.gpu policy-bundle DIR DATA    collect a real language model and its questions: DIR1, DIR2
    python -m benchmarks.gpu unpack DIR1               install such a folder there, after the first run

Every part has a process and a limit of its own; the next one starts whatever happened. OUT holds ``results.csv``, one
row for every figure; ``verdict.txt``, the page that is printed at the end; ``log.txt``, the output of all parts. Exit
code 1: a result is wrong, or a part failed or was ended at its limit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.arguments import add_option
from benchmarks.gpu import policy_bundle, process, results, stack_bundle, verdict
from benchmarks.gpu.bundle import bundle, unpack, unpack_more
from benchmarks.gpu.plan import STAGES, Part

PARTS = {part.name: part for stage in STAGES for part in stage}
COMMANDS: dict[str, tuple[Callable[..., object], Sequence[str]]] = {
    "bundle": (bundle, ["DIR"]),
    "stack-bundle": (stack_bundle.bundle, ["DIR"]),
    "policy-bundle": (policy_bundle.bundle, ["DIR", "DATA"]),
    "unpack": (unpack_more, ["DIR"]),
}
REHEARSAL = "REHEARSAL on the CPU at tiny shapes: figures of cost say nothing about a card"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts, print the verdict; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] and argv[0] in COMMANDS:
        action, folders = COMMANDS[argv[0]]
        given = argv[1:]
        if len(given) != len(folders) or given[0].startswith("-"):
            print(f"usage: python -m benchmarks.gpu {argv[0]} {' '.join(folders)}")
            return 0 if given == ["--help"] else 2
        action(*map(Path, given))
        return 0
    options = _options(argv)
    if options.list:
        for part in PARTS.values():
            print(f"{part.name:<15} at most {part.limit_s:>3} s  {part.summary}")
        return 0
    if not options.rehearse and not torch.cuda.is_available():
        print(
            "no card: torch.cuda.is_available() is False; --rehearse runs everything at tiny shapes on the CPU"
        )
        return 2
    began = time.monotonic()
    results.start(options.out)
    (options.out / process.LOG).unlink(missing_ok=True)
    site = unpack(options.bundle) if options.bundle else None
    device = "cpu" if options.rehearse else "cuda"
    told = results.Run("", device, options.seed, options.out.resolve(), 0.0, options.inject_error)
    outcomes = []
    for stage in _chosen(options):
        left = options.minutes * 60 - (time.monotonic() - began)
        with_environment = [(part, _environment(part, options.rehearse, site)) for part in stage]
        for outcome in process.run_side_by_side(with_environment, told, left):
            print(f"{outcome.part}: {outcome.state} after {outcome.seconds} s", flush=True)
            outcomes.append(outcome)
    rows = results.read(options.out)
    found = verdict.findings(PARTS.values(), rows, outcomes)
    title = REHEARSAL if options.rehearse else "SD-Search on a card"
    text = verdict.page(title, found, rows, outcomes)
    (options.out / "verdict.txt").write_text(text)
    print(text, end="")
    return verdict.exit_code(found, outcomes)


def _chosen(options: argparse.Namespace) -> list[list[Part]]:
    """Return the stages with the parts and limits asked for."""
    limits = dict(options.limit)
    chosen = [
        [
            replace(part, limit_s=limits.get(part.name, part.limit_s))
            for part in stage
            if part.name in options.only
        ]
        for stage in STAGES
    ]
    return [stage for stage in chosen if stage]


def _environment(part: Part, rehearse: bool, site: Path | None) -> dict[str, str]:
    paths = [] if site is None else [site / "verl", *([site / "compare"] if part.compare else [])]
    return process.environment(rehearse, paths)


def _limit(text: str) -> tuple[str, int]:
    name, _, seconds = text.partition("=")
    if name not in PARTS or not seconds.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not PART=SECONDS with a part of --list")
    return name, int(seconds)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_option(parser, "--minutes", 8.0, "time of all parts together", "MINUTES")
    add_option(parser, "--out", Path("runs/gpu"), "folder for the results")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help="parts to run (default: all)",
    )
    parser.add_argument(
        "--limit",
        type=_limit,
        action="append",
        default=[],
        metavar="PART=SECONDS",
        help="time limit of a part (default: the part's own)",
    )
    parser.add_argument("--list", action="store_true", help="print the parts and stop")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="packages that this machine lacks (default: none)"
    )
    add_option(parser, "--seed", 0, "seed of all parts", "SEED")
    falsify = "falsify what the checks see by this much; they must then say WRONG"
    add_option(parser, "--inject-error", 0.0, falsify, "RELATIVE")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
