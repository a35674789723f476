"""``python -m retriever_server.build_index``: build an index folder from a corpus."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .corpus import CorpusError
from .encoder import EncoderError
from .indexing.base import BuildError, BuildOptions
from .indexing.build import BUILDERS, build
from .java.jvm import JavaError


def parser() -> argparse.ArgumentParser:
    defaults = {field.name: field.default for field in dataclasses.fields(BuildOptions)}
    arguments = argparse.ArgumentParser(prog="python -m retriever_server.build_index", description=__doc__)
    arguments.add_argument(
        "--backend", choices=sorted(BUILDERS), default="bm25",
        help="a stopped build goes on from what is finished; bm25s alone begins again (one pass in memory)",
    )  # fmt: skip
    arguments.add_argument(
        "--corpus", type=Path, required=True, help='JSON lines {"id", "contents"}, plain or .gz'
    )
    arguments.add_argument("--index", type=Path, required=True, help="folder to make")
    arguments.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments.add_argument("--heap-mb", type=int, default=defaults["heap_mb"], help="largest Java heap")
    arguments.add_argument(
        "--one-segment", action=argparse.BooleanOptionalAction, default=defaults["one_segment"],
        help="merge Lucene's segments: slower to build, faster to search",
    )  # fmt: skip
    arguments.add_argument("--k1", type=float, default=defaults["k1"], help="bm25s only")
    arguments.add_argument("--b", type=float, default=defaults["b"], help="bm25s only")
    arguments.add_argument("--encoder", type=Path, help="dense, hybrid: folder of the encoder")
    arguments.add_argument("--encoder-prefixes", choices=["auto", "e5", "none"], default="auto")
    arguments.add_argument("--encoder-runtime", choices=["torch", "onnx"], default="torch")
    arguments.add_argument("--device", default="cpu", help="where to encode: cpu, or one GPU like cuda:0")
    arguments.add_argument(
        "--vectors",
        type=Path,
        help="flat FAISS index of the corpus, such as e5_Flat.index: not encoded again",
    )
    arguments.add_argument("--factory", default="", help="FAISS factory string of an approximate index")
    arguments.add_argument("--skip-bad-lines", action="store_true", help="leave them out instead of failing")
    arguments.add_argument("--overwrite", action="store_true", help="replace an index that is already there")
    return arguments


def _option_names() -> list[str]:
    return [field.name for field in dataclasses.fields(BuildOptions)]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    options = BuildOptions(**{name: getattr(arguments, name) for name in _option_names()})
    try:
        build(
            arguments.backend, arguments.corpus, arguments.index, options,
            arguments.skip_bad_lines, arguments.overwrite,
        )  # fmt: skip
    except (CorpusError, BuildError, JavaError, EncoderError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
