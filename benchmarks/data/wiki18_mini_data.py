"""Rebuild wiki18-mini, the small real data set of tests and benchmarks, from the public repository it comes from.

``python -m benchmarks.data.wiki18_mini_data --out data`` clones ``GaurisankarJ/reason_over_search`` at one commit, or
reads a clone that is there (``--clone PATH``), takes questions, search queries, trajectories and passages out of its
evaluation records, and compares every file with a checksum. ``--tokenizer`` also takes Qwen2.5's tokenizer from the
hub.

The passages are the documents between ``<information>`` tags, so a few of the 9,654 hold text that a policy wrote
itself where it opened such a tag. They are kept: the files are what the recorded figures were measured on.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sd_search_verl.command_line import Parser, run_command
from sd_search_verl.errors import UserError

ADDRESS = "https://github.com/GaurisankarJ/reason_over_search"
COMMIT = "45495b576c768f0d5996789e2db29eaa285a3c54"
TOKENIZER = "Qwen/Qwen2.5-3B"
QUESTION_SETS = ("nq", "popqa", "triviaqa")
RESULTS = "evaluation_search_r1/results"
RECORDS = {
    "nq, v0-base": f"{RESULTS}/_archive_v0/nq/nq_2026_04_25_17_38_search_r1_base_seed1",
    "nq, v1-base": f"{RESULTS}/_archive_v1/nq/nq_2026_04_28_16_43_search_r1_base_seed1",
    "popqa, v0-base": f"{RESULTS}/_archive_v0/popqa/popqa_2026_04_25_19_18_search_r1_base_seed1",
    "triviaqa, v0-base": f"{RESULTS}/_archive_v0/triviaqa/triviaqa_2026_04_25_18_34_search_r1_base_seed1",
    "triviaqa, v1-base": f"{RESULTS}/_archive_v1/triviaqa/triviaqa_2026_04_28_17_40_search_r1_base_seed1",
    "bamboogle, v0-base": f"{RESULTS}/_archive_v0/bamboogle/bamboogle_2026_04_25_17_32_search_r1_base_seed1",
    "bamboogle, v1-base": f"{RESULTS}/_archive_v1/bamboogle/bamboogle_2026_04_28_16_36_search_r1_base_seed1",
    "bamboogle, v1-instruct": f"{RESULTS}/_archive_v1/bamboogle/bamboogle_2026_04_29_06_48_search_r1_instruct_seed1",
}
SHA256 = {
    "corpus.jsonl": "3e4e028b623bca7addc9e8f238d7d8852f1dc47b37b11f1cc0e619e13fe49bd5",
    "queries.txt": "7978fa1b0bc2abf3a442f6f0b7e7396b535bb7d5a3645af085507a138ff3c266",
    "questions_nq.jsonl": "b74b9401c46ef27e5399381a205c8b8cb901d5411ece557241192ee4ec073724",
    "questions_popqa.jsonl": "9cc70985a6c190af3f837ed693f9a29280b5aa36be093840815a71cbd572d24b",
    "questions_triviaqa.jsonl": "5fb87d32d8e00157999b10af366d3973846d68775c47dd8c03d2c86fe5f41517",
    "trajectories_nq.jsonl": "8e007b89233dac40740b7e56cb447173c04845658a00b5d6ebd037fdcb34592f",
}
"""Of the text; ``trajectories_nq.jsonl`` is written compressed, and compressors differ."""

_OBSERVATION = re.compile(r"<information>(.*?)</information>", re.DOTALL)
_DOCUMENT = re.compile(r"Doc \d+\(Title: (.*?)\) (.*?)(?=\nDoc \d+\(Title:|\Z)", re.DOTALL)
_QUERY = re.compile(r"<search>(.*?)</search>", re.DOTALL)

Record = dict[str, Any]
ReadFile = Callable[[str], str]


class SourceError(UserError):
    """The source cannot be had or is another version. The message names what to do."""


def files(read: ReadFile) -> Iterator[tuple[str, str]]:
    """Yield name and text of every file of the data set.

    Args:
        read: returns the text of a file of the source repository by its path.
    """
    records = {name: json.loads(read(f"{folder}/intermediate_data.json")) for name, folder in RECORDS.items()}
    for name in QUESTION_SETS:
        questions = map(json.loads, read(f"data_subsample/{name}/test.jsonl").splitlines())
        yield (
            f"questions_{name}.jsonl",
            _lines(_only(line, "id", "question", "golden_answers") for line in questions),
        )
    yield "trajectories_nq.jsonl", _lines(_trajectories(records))
    nq, popqa = (*records["nq, v0-base"], *records["nq, v1-base"]), records["popqa, v0-base"]
    yield "queries.txt", "".join(f"{query}\n" for part in (nq, popqa) for query in _queries(part))
    passages = sorted({passage for part in records.values() for passage in _passages(part)})
    yield "corpus.jsonl", _lines({"id": str(i), "contents": passage} for i, passage in enumerate(passages))


def _lines(objects: Iterable[Record]) -> str:
    return "".join(json.dumps(found, ensure_ascii=False) + "\n" for found in objects)


def _only(line: Record, *fields: str) -> Record:
    return {field: line[field] for field in fields}


def _trajectories(records: dict[str, list[Record]]) -> Iterator[Record]:
    for run in ("v0-base", "v1-base"):
        for record in records[f"nq, {run}"]:
            output = record["output"]
            yield {
                "id": record["id"],
                "run": run,
                "question": record["question"],
                "golden_answers": record["golden_answers"],
                "prompt": output["query"],
                "response": output["final_response"],
                "stop_reason": output["stop_matched_text"],
                "pred": output["pred"],
                "metric": output["metric_score"],
            }


def _queries(records: Iterable[Record]) -> list[str]:
    """Return the different queries in the order of their first use."""
    found = (
        query.strip() for record in records for query in _QUERY.findall(record["output"]["final_response"])
    )
    return list(dict.fromkeys(query for query in found if query))


def _passages(records: Iterable[Record]) -> Iterator[str]:
    """Yield the documents of all observations as ``title`` newline ``text``."""
    for record in records:
        for observation in _OBSERVATION.findall(record["output"]["final_response"]):
            for title, text in _DOCUMENT.findall(observation):
                yield f"{title}\n{text.strip()}"


def read_from(clone: Path) -> ReadFile:
    """Return a reader of the files of a clone, bare or not, at ``COMMIT``."""

    def read(path: str) -> str:
        done = _git("-C", clone, "show", f"{COMMIT}:{path}")
        if done.returncode:
            raise SourceError(
                f"{clone} has no {path} at commit {COMMIT}: {done.stderr.strip()}. "
                f"Fix: git clone {ADDRESS}, and give that folder"
            )
        return done.stdout

    return read


def _git(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *map(str, arguments)], capture_output=True, text=True, encoding="utf-8", check=False
    )


def build(clone: Path | None, out: Path) -> list[Path]:
    """Write the data set into ``out``; returns its files.

    Raises:
        SourceError: no clone can be made, or a file differs from its checksum.
    """
    if clone is None:
        with tempfile.TemporaryDirectory() as folder:
            done = _git("clone", "--quiet", "--no-checkout", ADDRESS, folder)
            if done.returncode:
                raise SourceError(
                    f"{ADDRESS} cannot be cloned: {done.stderr.strip()}. Fix: give a clone with --clone"
                )
            return build(Path(folder), out)
    out.mkdir(parents=True, exist_ok=True)
    return [_write(out, name, text.encode()) for name, text in files(read_from(clone))]


def _write(out: Path, name: str, text: bytes) -> Path:
    found = hashlib.sha256(text).hexdigest()
    if found != SHA256[name]:
        raise SourceError(
            f"{name} has SHA-256 {found} in place of {SHA256[name]}; the source's records differ"
        )
    path = out / (f"{name}.gz" if name.startswith("trajectories") else name)
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


def fetch_tokenizer(out: Path) -> None:
    """Save Qwen2.5's tokenizer, without weights, into ``out``."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser(prog="python -m benchmarks.data.wiki18_mini_data", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the folder wiki18-mini")
    parser.add_argument(
        "--clone", type=Path, metavar="DIR", help=f"clone of {ADDRESS} (default: a temporary one)"
    )
    parser.add_argument(
        "--tokenizer",
        action="store_true",
        help=f"also fetch the tokenizer of {TOKENIZER} into qwen2.5-tokenizer",
    )
    parser.set_defaults(action=_main)
    return run_command(parser, argv)


def _main(options: argparse.Namespace) -> int:
    for path in build(options.clone, options.out / "wiki18-mini"):
        print(f"{path}: checksum equal")
    if options.tokenizer:
        fetch_tokenizer(options.out / "qwen2.5-tokenizer")
        print(f"{options.out / 'qwen2.5-tokenizer'}: tokenizer of {TOKENIZER}")
    print(f"tests use it with SD_SEARCH_TEST_DATA={options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
