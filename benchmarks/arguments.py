"""Command lines of the benchmarks."""

from __future__ import annotations

import argparse

from sd_search_verl.command_line import Parser


def command_parser(description: str | None) -> Parser:
    """Return a parser that shows a module's docstring as it is written."""
    return Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
