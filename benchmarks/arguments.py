"""Command lines of the benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sd_search_verl.command_line import Parser


def command_parser(description: str | None, prog: str | None = None) -> Parser:
    """Return a parser that shows a module's docstring as it is written."""
    return Parser(prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_option(
    parser: argparse.ArgumentParser,
    name: str,
    default: str | Path | float | Sequence[float],
    about: str,
    metavar: str | None = None,
) -> None:
    """Add an option of its default's type, or for several where the default has several; its help names the default."""
    first = default[0] if isinstance(default, list | tuple) else default
    parser.add_argument(
        name,
        type=type(first),
        nargs="+" if first is not default else None,
        default=default,
        metavar=metavar,
        help=f"{about} (default: %(default)s)".lstrip(),
    )
