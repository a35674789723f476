"""``sd-search data`` and ``corpus`` on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sd_search_verl.cli_options import add_options, given_options
from sd_search_verl.config import read_config
from sd_search_verl.data.config import DataConfig
from sd_search_verl.errors import UserError


def add_commands(commands: Any) -> None:
    """Add the sub-commands; ``commands`` is what argparse's ``add_subparsers`` gave."""
    data = commands.add_parser(
        "data", help="build verl parquet: NQ + HotpotQA train, seven evaluation sets, own"
    )
    data.add_argument(
        "--out", type=Path, required=True, help="folder of train.parquet, eval/ and manifest.json"
    )
    add_options(data, DataConfig)
    data.add_argument(
        "--own", metavar="NAME=FILE", help="instead: own JSON lines with question and golden_answers"
    )
    data.add_argument(
        "--verify", action="store_true", help="instead: check the files in --out by their manifest"
    )
    data.set_defaults(action=_data)

    corpus = commands.add_parser(
        "corpus", help="wiki-18 and its E5 index: says what it costs, then downloads"
    )
    corpus.add_argument("--out", type=Path, default=Path("."), help="folder (default: here)")
    corpus.add_argument("--part", choices=["corpus", "e5-index"], default="corpus")
    corpus.add_argument("--yes", action="store_true", help="begin; without it nothing is downloaded")
    corpus.add_argument(
        "--file", type=Path, help="instead: check a corpus that you have; the corrected wiki-18 is converted"
    )
    corpus.set_defaults(action=_corpus)


def _data(arguments: argparse.Namespace) -> int:
    from sd_search_verl.data.build import build, build_own, verify

    if arguments.verify:
        differences = verify(arguments.out)
        print("\n".join(differences) or f"{arguments.out}: every file is as written")
        return 1 if differences else 0
    config = read_config(DataConfig, given_options(arguments, DataConfig), "data")
    if arguments.own:
        name, _, path = arguments.own.partition("=")
        if not name or not path:
            raise UserError(f"--own {arguments.own}: give NAME=FILE")
        build_own(Path(path), name, config.protocol, arguments.out)
        return 0
    build(config, arguments.out)
    return 0


def _corpus(arguments: argparse.Namespace) -> int:
    import shutil

    from sd_search_verl.data.corpus import PARTS, check_corpus, convert, fetch, has_titles, plan

    part = PARTS[arguments.part]
    found = arguments.file or arguments.out / part.result
    if arguments.file and has_titles(found):
        found = arguments.out / f"{found.stem}.contents.jsonl"
        print(f"{found}: {convert(arguments.file, found):,} passages, of titles and texts")
    elif arguments.file:
        print(f"{found}: the first {check_corpus(found)} lines are a corpus")
    elif not found.exists():
        job = plan(part)
        arguments.out.mkdir(parents=True, exist_ok=True)
        print(job.describe(shutil.disk_usage(arguments.out).free))
        if not arguments.yes:
            print("nothing was downloaded; add --yes to begin")
            return 0
        fetch(job, arguments.out)
    print(f"{found} is ready; next:\n  {part.use.format(file=found)}")
    return 0
