"""``python -m retriever_server``: serve an index over HTTP."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .backends.registry import BACKENDS
from .server import serve
from .settings import Settings, SettingsError, flag

HELP = {
    "index": "folder made by retriever_server.build_index",
    "corpus": "the corpus the index was built from",
    "host": "address to listen on",
    "port": "0 picks a free one",
    "port_file": "write the bound URL there once ready",
    "verify": "sample: sizes and sampled blocks; full: every byte",
    "topk": "documents per query where a request names none",
    "max_query_chars": "a longer query is cut, and counted",
    "max_queue": "queries that may wait; beyond it 429",
    "deadline_s": "seconds a request may take; then 504",
    "cache_entries": "answers kept in memory",
    "threads": "search threads; default one per core",
}


def parser() -> argparse.ArgumentParser:
    """Every setting as an option, with the default of :class:`Settings`."""
    arguments = argparse.ArgumentParser(
        prog="python -m retriever_server",
        description="Serve an index over HTTP.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    arguments.add_argument("--backend", required=True, choices=BACKENDS)
    for field in dataclasses.fields(Settings):
        if field.name == "backend":
            continue
        options: dict[str, Any] = {"default": field.default, "help": HELP.get(field.name, " ")}
        kind = str(field.type)
        if kind.startswith("Path"):
            options["type"] = Path
        elif kind.startswith("int"):
            options["type"] = int
        elif kind == "float":
            options["type"] = float
        arguments.add_argument(flag(field.name), **options)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        arguments = sys.argv[1:] if argv is None else list(argv)
        return serve(Settings(**vars(parser().parse_args(arguments))), arguments)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
