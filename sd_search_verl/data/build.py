"""``sd-search data``: convert question files to verl parquet, and record request and checksums in a manifest."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from sd_search_verl import protocol as protocols
from sd_search_verl.data.config import DataConfig
from sd_search_verl.data.flashrag import (
    EVALUATION,
    TRAIN,
    SourceQuestion,
    Split,
    read_split,
    source_file,
)
from sd_search_verl.data.jsonl import Problem
from sd_search_verl.data.questions import Question, good_questions, stream_questions
from sd_search_verl.data.verl_rows import verl_row, write_parquet
from sd_search_verl.errors import UserError
from sd_search_verl.files import count_parquet_rows, read_json, sha256, write_json
from sd_search_verl.protocol.base import Protocol

MANIFEST = "manifest.json"
SOURCE = "source"
"""Folder of downloads in the layout of the hub repository, so that ``--source`` takes it too."""


@dataclass(frozen=True)
class _Part:
    name: str
    split: Split
    sample: int | None


def build(config: DataConfig, out: Path) -> dict[str, Any]:
    """Write ``train.parquet``, ``eval/SET.parquet`` and the manifest; return the manifest.

    A file is not rebuilt when the manifest has it with the same request and its checksum is unchanged.

    Raises:
        UserError: a source file is missing, or has another number of rows than the published one.
    """
    files: dict[str, list[_Part]] = {}
    if config.train:
        files["train.parquet"] = [_Part(n, TRAIN[n], config.train_sample) for n in config.train]
    for name in config.evaluation:
        files[f"eval/{name}.parquet"] = [_Part(name, EVALUATION[name], config.sample)]
    manifest = _read_manifest(out)
    for file, parts in files.items():
        request = _request(config, parts)
        if _is_there(out, file, manifest, request) and _fits(config, manifest["files"][file]["parts"]):
            _say(f"{file} is there already: {manifest['files'][file]['rows']} rows")
            continue
        described: list[dict[str, Any]] = []
        rows = (row for part in parts for row in _rows(config, part, out / SOURCE, described))
        _finish(out, manifest, file, request, rows, described)
    return manifest


def build_own(path: Path, name: str, protocol: str, out: Path) -> dict[str, Any]:
    """Write ``NAME.parquet`` from JSON lines with ``question`` and ``golden_answers``; add it to the manifest.

    Raises:
        UserError: no such file, or ``name`` cannot be the name of one in ``out``.
        MalformedRowsError: malformed rows, named by line and field; nothing is written.
    """
    if not name.strip(" .") or not name.isprintable() or set("/\\") & set(name):
        raise UserError(
            f"NAME {name!r} cannot be the name of a file. Fix: give letters and digits, such as train; --out names "
            "the folder"
        )
    format_ = protocols.get(protocol)
    count = 0
    for _ in tqdm(_own(path, name, format_), desc=f"checking {name}", unit="row"):
        count += 1
    manifest = _read_manifest(out)
    rows = (
        verl_row(name, "own", index, q.id, q.question, q.golden_answers, format_)
        for index, q in enumerate(tqdm(_own(path, name, format_), total=count, desc=name, unit="row"))
    )
    request = {"source": str(path), "name": name, "protocol": protocol, "prompt": _prompt_hash(protocol)}
    described = [{"set": name, "source_sha256": sha256(path), "source_rows": count}]
    _finish(out, manifest, f"{name}.parquet", request, rows, described)
    return manifest


def _own(path: Path, name: str, protocol: Protocol) -> Iterator[Question]:
    found = enumerate(stream_questions(path, name, protocol), start=1)
    return good_questions(path, (_with_question_alone(number, one) for number, one in found))


def _with_question_alone(number: int, found: Question | Problem) -> Question | Problem:
    """Return a question, or a problem where only the whole prompt of a row in verl's format is known."""
    if isinstance(found, Question) and found.question == found.messages[-1]["content"]:
        reason = "is missing or null: the prompt of the row would be put into a second prompt; write the question there"
        return Problem(number, "extra_info.question", reason)
    return found


def verify(out: Path) -> list[str]:
    """Return the differences between the manifest in ``out`` and the files beside it, one line each.

    Raises:
        UserError: no manifest.
    """
    if not (out / MANIFEST).is_file():
        raise UserError(f"{out / MANIFEST} is missing; build the data first")
    found = []
    for file, entry in _read_manifest(out)["files"].items():
        path = out / file
        if not path.is_file():
            found.append(f"{file} is missing")
        elif sha256(path) != entry["sha256"]:
            found.append(f"{file} is not what was written (sha256)")
        elif (rows := count_parquet_rows(path)) != entry["rows"]:
            found.append(f"{file} has {rows} rows, the manifest says {entry['rows']}")
        for part in entry["parts"]:
            source = out / SOURCE / part["set"] / f"{part.get('split')}.jsonl"
            if source.is_file() and sha256(source) != part["source_sha256"]:
                found.append(f"{source.relative_to(out)} is not what {file} was made of (sha256)")
    return found


def _rows(
    config: DataConfig, part: _Part, downloads: Path, described: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the part's rows; after the last one append counts and checksum of its source to ``described``."""
    path = source_file(config.source, part.name, part.split.name, downloads)
    questions: list[SourceQuestion] = []
    left_out: list[str] = []
    total = dropped = 0
    progress = tqdm(
        read_split(path), total=part.split.rows, desc=f"{part.name} {part.split.name}", unit="row"
    )
    for number, found in progress:
        total = number
        if isinstance(found, Problem):
            left_out.append(str(found))
        else:
            questions.append(found)
            dropped += found.dropped
    if total != part.split.rows and not config.any_rows:
        raise UserError(
            f"{path} has {total} rows, the published {part.name} {part.split.name} has {part.split.rows}: results on "
            "it are not comparable. Give --any-rows if this is meant"
        )
    for problem in left_out:
        _say(f"left out: {path}: {problem}")
    chosen: Sequence[int] = range(len(questions))
    if part.sample is not None and part.sample < len(questions):
        draw = Random(f"{config.seed}/{part.name}/{part.split.name}")
        chosen = sorted(draw.sample(chosen, part.sample))
    protocol = protocols.get(config.protocol)
    for index in chosen:
        q = questions[index]
        yield verl_row(part.name, part.split.name, index, q.id, q.question, q.golden_answers, protocol)
    described.append(
        {
            "set": part.name,
            "split": part.split.name,
            "rows": len(chosen),
            "source_rows": total,
            "published_rows": part.split.rows,
            "source_sha256": sha256(path),
            "left_out": left_out,
            "empty_answers_dropped": dropped,
        }
    )


def _request(config: DataConfig, parts: Sequence[_Part]) -> dict[str, Any]:
    """Return the options that determine a file's content, apart from the bytes of its source."""
    return {
        "source": config.source,
        "parts": [[part.name, part.split.name, part.sample] for part in parts],
        "protocol": config.protocol,
        "prompt": _prompt_hash(config.protocol),
        "seed": config.seed,
    }


def _finish(
    out: Path,
    manifest: dict[str, Any],
    file: str,
    request: dict[str, Any],
    rows: Iterator[dict[str, Any]],
    described: list[dict[str, Any]],
) -> None:
    """Write a file, then the manifest entry; a process killed in between rebuilds that file only."""
    count = write_parquet(out / file, rows)
    manifest["files"][file] = {
        "rows": count,
        "sha256": sha256(out / file),
        "request": request,
        "parts": described,
    }
    write_json(out / MANIFEST, manifest)
    _say(f"{file}: {count} rows")


def _is_there(out: Path, file: str, manifest: dict[str, Any], request: dict[str, Any]) -> bool:
    entry = manifest["files"].get(file)
    return bool(
        entry
        and entry["request"] == request
        and (out / file).is_file()
        and sha256(out / file) == entry["sha256"]
    )


def _fits(config: DataConfig, parts: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a file is what its source gives now: the published number of rows, and the same bytes."""
    local = Path(config.source).is_dir()
    return all(
        (config.any_rows or part["source_rows"] == part["published_rows"])
        and (
            not local
            or part["source_sha256"] == sha256(source_file(config.source, part["set"], part["split"], Path()))
        )
        for part in parts
    )


def _read_manifest(out: Path) -> dict[str, Any]:
    path = out / MANIFEST
    manifest: dict[str, Any] = read_json(path) if path.is_file() else {"format": 1, "files": {}}
    return manifest


def _prompt_hash(protocol: str) -> str:
    return hashlib.sha256(protocols.get(protocol).prompt_template.encode()).hexdigest()[:16]


def _say(message: str) -> None:
    print(message, file=sys.stderr)
