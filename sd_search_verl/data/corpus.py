"""``sd-search corpus``: state the cost of wiki-18 or its E5 index, and download it once the user agrees.

Repositories and files are those of Search-R1's ``scripts/download.py`` (https://github.com/PeterGriffinJin/Search-R1);
sizes are asked of the hub.
"""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sd_search_verl.data import hub
from sd_search_verl.data.jsonl import MalformedRowsError, Problem, check_text, parse_object, read_lines
from sd_search_verl.errors import UserError, on_one_line
from sd_search_verl.files import part_of, whole

GB = 10**9
_CHUNK = 1 << 24  # bytes
_CHECKED = 10_000  # lines
_NAMED = 20  # malformed lines


@dataclass(frozen=True)
class Part:
    """Files to download.

    Attributes:
        repository: on the hub; HF_ENDPOINT chooses a mirror.
        files: names of the files.
        result: name of the finished file: the unpacked ``.gz``, or the joined parts.
        grows: disk space needed while it is made, as a multiple of the download.
        serving: disk, memory and time that using it takes, in words.
        use: next command, a template of ``{file}``.
    """

    repository: str
    files: tuple[str, ...]
    result: str
    grows: float
    serving: str
    use: str

    def next_step(self, file: Path) -> str:
        """Return the line that names the next command."""
        return f"next, with {file}:\n  {self.use.format(file=file)}"


PARTS = {
    "corpus": Part(
        "PeterJinGo/wiki-18-corpus",
        ("wiki-18.jsonl.gz",),
        "wiki-18.jsonl",
        4.0,
        "21,015,324 passages. A BM25 index takes some 3.3 GB of disk, 1 GB of memory and 40 minutes of one core; an E5 "
        "index 65 GB and hours of a GPU (docs/retriever.md)",
        "python -m retriever_server.build_index --backend bm25 --corpus {file} --index {file}.bm25",
    ),
    "e5-index": Part(
        "PeterJinGo/wiki-18-e5-index",
        ("part_aa", "part_ab"),
        "e5_Flat.index",
        2.0,
        "21 million vectors of 768 numbers: about 65 GB of memory in 32 bits, 33 GB in 16 bits; E5-base-v2 encodes "
        "the queries",
        "python -m retriever_server.build_index --backend dense --encoder e5-base-v2 --encoder-prefixes e5 "
        "--vectors {file} --corpus wiki-18.jsonl --index {file}.dense",
    ),
}


@dataclass(frozen=True)
class Plan:
    """Files to download for a part."""

    part: Part
    files: Sequence[hub.RemoteFile]

    @property
    def room(self) -> int:
        """Disk space in bytes while the files are unpacked, downloads included."""
        return int(self.part.grows * sum(file.size for file in self.files))

    def describe(self, free: int) -> str:
        """Return the cost in words. Time is for 100 megabytes a second from the hub and from the disk."""
        download = sum(file.size for file in self.files)
        minutes = (download + self.room) / 1e8 / 60
        files = ", ".join(f"{file.name} {file.size / GB:.1f} GB" for file in self.files)
        return (
            f"{self.part.repository}: {files}\n"
            f"  download {download / GB:.1f} GB; disk {self.room / GB:.1f} GB while unpacking, {free / GB:.1f} GB are "
            f"free; memory below 1 GB; about {minutes:.0f} minutes at 100 MB/s\n"
            f"  to use it: {self.part.serving}"
        )


def plan(part: Part) -> Plan:
    """Return the plan of a download, with sizes from the hub.

    Raises:
        UserError: the hub does not answer.
    """
    return Plan(part, [hub.find(part.repository, name) for name in part.files])


def fetch(job: Plan, out: Path) -> None:
    """Download, verify and unpack a part into a folder. A repeated call resumes a broken download.

    Raises:
        UserError: the disk is too small, a download failed, or what was downloaded cannot be unpacked.
    """
    free = shutil.disk_usage(out).free
    kept = [path for file in job.files for path in (out / file.name, part_of(out / file.name))]
    there = sum(path.stat().st_size for path in kept if path.is_file())
    if job.room - there > free:
        raise UserError(
            f"{out} has {free / GB:.1f} GB free, {(job.room - there) / GB:.1f} GB are needed; choose another --out"
        )
    downloaded = [
        hub.check(file, path) if (path := out / file.name).is_file() else hub.download(file, path)
        for file in job.files
    ]
    try:
        assemble(downloaded, out / job.part.result)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{downloaded[0]} is not a whole gzip file ({on_one_line(error)}), as it is on the hub. Fix: remove it, "
            "and set HF_ENDPOINT to another mirror"
        ) from error


def assemble(sources: Sequence[Path], result: Path) -> None:
    """Unpack a ``.gz`` or join parts into ``result``, written atomically, and remove the sources."""
    total = sum(source.stat().st_size for source in sources)
    with whole(result) as part, part.open("wb") as file, _bar(result, "B", total) as bar:
        for source in sources:
            with source.open("rb") as raw:
                stream = gzip.GzipFile(fileobj=raw) if source.suffix == ".gz" else raw
                while chunk := stream.read(_CHUNK):
                    file.write(chunk)
                    bar.update(raw.tell() - bar.n if len(sources) == 1 else len(chunk))
    for source in sources:
        source.unlink()


def _bar(result: Path, unit: str, total: int | None = None) -> Any:
    return tqdm(total=total, unit=unit, unit_scale=True, desc=result.name)


@dataclass(frozen=True)
class Checked:
    """The beginning of a corpus that ``build_index`` takes.

    Attributes:
        lines: number of the last line that was read.
        passages: how many are in these lines.
        untitled: how many of them have no line end between title and text.
    """

    lines: int
    passages: int
    untitled: int

    def warning(self) -> str:
        """Return what ``build_index`` warns about, or an empty text."""
        if not self.untitled:
            return ""
        return (
            f"warning: {self.untitled:,} of {self.passages:,} passages have no line end between title and text; a "
            'policy reads them as titles without text. Fix: write "contents" as "title\\ntext"'
        )


def check_corpus(path: Path) -> Checked:
    """Check the first lines of a corpus by the rules of ``retriever_server.corpus.scan``, which reads all of them.

    Raises:
        UserError: no such file, or no passage or no text in it.
        MalformedRowsError: a line is no ``{"id", "contents"}``, or has the id of another.
    """
    problems: list[Problem] = []
    first: dict[str, int] = {}
    number = untitled = 0
    has_text = False
    for number, line in islice(_lines(path), _CHECKED):
        if isinstance(found := _passage(number, line), Problem):
            problems.append(found)
            continue
        identity, contents = found
        if (earlier := first.setdefault(identity, number)) != number:
            problems.append(Problem(number, "id", f"{identity!r} stands in line {earlier} already"))
        untitled += "\n" not in contents
        has_text = has_text or bool(contents.strip())
    if problems:
        raise MalformedRowsError(path, problems)
    if not number:
        raise UserError(f"{path} holds no passage. Fix: give JSON lines with id and contents")
    if not has_text:
        raise UserError(
            f"{path}: the contents of the first {len(first):,} passages are empty. Fix: give their text"
        )
    return Checked(number, len(first), untitled)


def convert(path: Path, result: Path) -> int:
    """Convert a corpus of ``{"id", "title", "text"}`` to ``{"id", "contents"}``; return its number of passages.

    The id may be named ``id``, ``_id`` as in BEIR, or ``doc_id`` as in the corrected wiki-18 of arXiv 2605.27881
    (``wiki-fixed.jsonl``). Titles get the quotation marks that wiki-18 has, because models were trained with them.

    Raises:
        UserError: no such file, or an empty one.
        MalformedRowsError: malformed lines, of which the first 20 are named; no file is left behind.
    """
    result.parent.mkdir(parents=True, exist_ok=True)
    count = bad = 0
    named: list[Problem] = []
    with whole(result) as part, part.open("w") as file, _bar(result, "passage") as bar:
        for number, line in _lines(path):
            bar.update()
            if isinstance(passage := _titled_passage(number, line), Problem):
                bad += 1
                named += [passage] if len(named) < _NAMED else []
            else:
                file.write(json.dumps(passage) + "\n")
                count += 1
        if bad:
            raise MalformedRowsError(path, named, bad)
        if not count:
            raise UserError(f"{path} is empty")
    return count


def has_titles(path: Path) -> bool:
    """Return whether a corpus' first line has the form that :func:`convert` takes."""
    for number, line in _lines(path):
        row = parse_object(number, line)
        return not isinstance(row, Problem) and "contents" not in row and {"title", "text"} <= set(row)
    return False


def _titled_passage(number: int, line: bytes) -> dict[str, str] | Problem:
    """Return the passage of a line with title and text, or its first problem."""
    row = parse_object(number, line)
    if isinstance(row, Problem):
        return row
    if problem := next(_title_problems(number, row), None):
        return problem
    title = row["title"].strip()
    quoted = title if title.startswith('"') and title.endswith('"') else f'"{title}"'
    return {"id": str(row[_id_name(row)]), "contents": f"{quoted}\n{row['text'].strip()}"}


def _title_problems(number: int, row: dict[str, Any]) -> Iterator[Problem]:
    for name in ("title", "text"):
        if (problem := check_text(number, name, row.get(name))) is not None:
            yield problem
    if "\n" in str(row.get("title")).strip():
        yield Problem(number, "title", "holds a line end, which would begin the text")
    name = _id_name(row)
    if not isinstance(row.get(name), (str, int)) or isinstance(row[name], bool):
        yield Problem(number, name, "must be a text or a whole number")


def _id_name(row: dict[str, Any]) -> str:
    return next((name for name in ("id", "_id", "doc_id") if row.get(name) is not None), "id")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of the lines that are not blank, which ``build_index`` leaves out."""
    return ((number, line) for number, line in read_lines(path) if not line.isspace())


def _passage(number: int, line: bytes) -> tuple[str, str] | Problem:
    """Return id and contents of a line, or what ``build_index`` refuses it for.

    Its parser, which is not installed everywhere, is stricter than Python's (NaN, half a surrogate pair) and than
    :func:`parse_object` more lenient (a field that stands twice, an empty text).
    """
    try:
        row = json.loads(line.decode())
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        return Problem(number, None, f"not JSON in UTF-8 ({str(error)[:80]})")
    if not isinstance(row, dict):
        return Problem(number, None, "is no object; each line must be one with id and contents")
    for name in ("id", "contents"):
        if not isinstance(row.get(name), str):
            return Problem(number, name, "is no text" if name in row else "is missing; a text is needed")
    return row["id"], row["contents"]
