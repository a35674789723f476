"""Serve an index over HTTP: python -m retriever_server."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .errors import RetrieverError, explain
from .options import add_arguments
from .server import serve
from .settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server with the options of ``argv`` and return its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="python -m retriever_server", description=__doc__)
    add_arguments(parser, Settings)
    values = vars(parser.parse_args(arguments))
    try:
        return serve(Settings.from_strings(values), arguments)
    except RetrieverError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {explain(error)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
