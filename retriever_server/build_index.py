"""Build an index folder from a corpus: python -m retriever_server.build_index."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import RetrieverError, explain
from .indexing.base import BuildOptions
from .indexing.build import BuilderName, build
from .options import add_arguments


class BuildCommand(BuildOptions):
    """Options of the command."""

    backend: BuilderName = "bm25"
    """Back end: bm25, bm25s, dense or hybrid. An interrupted build resumes; bm25s alone starts over."""
    corpus: Path
    """JSON lines {"id", "contents"}, plain or .gz."""
    index: Path
    """Folder that the index is written to."""
    skip_bad_lines: bool = False
    """Skip lines that are not {"id", "contents"} instead of failing; they are reported."""
    overwrite: bool = False
    """Replace an index that exists; a folder that holds something else is kept."""


def main(argv: Sequence[str] | None = None) -> int:
    """Build an index with the options of ``argv`` and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m retriever_server.build_index", description=__doc__)
    add_arguments(parser, BuildCommand)
    values = vars(parser.parse_args(argv))
    try:
        command = BuildCommand.from_strings(values)
        build(
            command.backend, command.corpus, command.index, command,
            skip_bad_lines=command.skip_bad_lines, overwrite=command.overwrite,
        )  # fmt: skip
    except (RetrieverError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {explain(error, values['index'])}", file=sys.stderr)
    except KeyboardInterrupt:
        then = "starts over" if values.get("backend") == "bm25s" else "goes on with what is finished"
        print(f"interrupted; the same command {then}", file=sys.stderr)
        return 130  # as a shell has it: 128 and the signal's number
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
