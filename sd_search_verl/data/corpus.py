"""``sd-search corpus``: wiki-18 and its E5 index. What it costs is said first; nothing starts without consent."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from sd_search_verl.data.jsonl import MalformedRowsError, Problem, check_text, read_objects

GB = 10**9
_CHUNK = 1 << 24  # bytes


@dataclass(frozen=True)
class Part:
    """Something to download.

    Attributes:
        repository: on the hub; HF_ENDPOINT chooses a mirror.
        files: to download.
        result: what they become: unpacked if one ``.gz``, joined if several.
        grows: size on disk while it is made, as a multiple of the download.
        serving: what using it takes.
    """

    repository: str
    files: tuple[str, ...]
    result: str
    grows: float
    serving: str


PARTS = {
    "corpus": Part(
        "PeterJinGo/wiki-18-corpus",
        ("wiki-18.jsonl.gz",),
        "wiki-18.jsonl",
        4.0,
        "21,015,324 passages. A BM25 index of it is built on one machine without a GPU; see docs/retriever.md",
    ),
    "e5-index": Part(
        "PeterJinGo/wiki-18-e5-index",
        ("part_aa", "part_ab"),
        "e5_Flat.index",
        2.0,
        "21 million vectors of 768 numbers: about 65 GB of memory in 32 bits, 33 GB in 16 bits; E5-base-v2 encodes "
        "the queries",
    ),
}


@dataclass(frozen=True)
class Plan:
    """Files to fetch with their sizes in bytes, and the room it takes while they are unpacked."""

    part: Part
    sizes: dict[str, int]
    room: int

    def describe(self, free: int) -> str:
        """What it costs, in words. Time is for 100 megabytes a second from the hub and from the disk."""
        download = sum(self.sizes.values())
        minutes = (download + self.room) / 1e8 / 60
        return (
            f"{self.part.repository}: {', '.join(self.sizes)}\n"
            f"  download {download / GB:.1f} GB; disk {self.room / GB:.1f} GB while unpacking, {free / GB:.1f} GB are "
            f"free; about {minutes:.0f} minutes at 100 MB/s\n"
            f"  to use it: {self.part.serving}"
        )


def plan(part: Part, out: Path) -> Plan:
    """Ask the hub what is to be fetched; files that are there count too, because they are unpacked.

    Raises:
        RuntimeError: the hub does not answer.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    sizes = {}
    try:
        for name in part.files:
            found = hf_hub_download(part.repository, name, repo_type="dataset", local_dir=out, dry_run=True)
            sizes[name] = found.file_size or 0
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise RuntimeError(
            f"{part.repository} cannot be reached ({str(error).splitlines()[0]}); set HF_ENDPOINT to a mirror, or give "
            "a copy that you have with --file"
        ) from error
    return Plan(part, sizes, int(part.grows * sum(sizes.values())))


def fetch(job: Plan, out: Path) -> Path:
    """Download (a second start goes on) and unpack; returns the finished file.

    Raises:
        RuntimeError: the disk is too small.
    """
    result = out / job.part.result
    if result.exists():
        return result
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    there = sum(path.stat().st_size for name in job.sizes if (path := out / name).is_file())
    if job.room - there > free:
        raise RuntimeError(
            f"{out} has {free / GB:.1f} GB free, {(job.room - there) / GB:.1f} GB are needed; choose another --out"
        )
    from huggingface_hub import hf_hub_download

    downloaded = [
        Path(hf_hub_download(job.part.repository, name, repo_type="dataset", local_dir=out))
        for name in job.sizes
    ]
    assemble(downloaded, result)
    return result


def assemble(sources: Sequence[Path], result: Path) -> None:
    """Unpack a ``.gz`` or join parts into ``result``, which appears when it is whole; the sources are then removed."""
    part = result.with_name(result.name + ".part")
    total = sum(source.stat().st_size for source in sources)
    with part.open("wb") as file, tqdm(total=total, unit="B", unit_scale=True, desc=result.name) as bar:
        for source in sources:
            with source.open("rb") as raw:
                stream = gzip.GzipFile(fileobj=raw) if source.suffix == ".gz" else raw
                while chunk := stream.read(_CHUNK):
                    file.write(chunk)
                    bar.update(raw.tell() - bar.n if len(sources) == 1 else len(chunk))
    part.replace(result)
    for source in sources:
        source.unlink()


def check_corpus(path: Path, lines: int = 10_000) -> int:
    """Check the first lines of a corpus that the user has (the corrected wiki-18, for instance); returns how many.

    Raises:
        FileNotFoundError: no such file.
        MalformedRowsError: a line is no ``{"id", "contents": "title\\ntext"}``.
    """
    problems: list[Problem] = []
    count = 0
    for number, row in islice(read_objects(path), lines):
        count = number
        problems += [row] if isinstance(row, Problem) else _problems(number, row)
    if problems:
        raise MalformedRowsError(path, problems)
    if not count:
        raise ValueError(f"{path} is empty")
    return count


def _problems(number: int, row: dict[str, object]) -> Iterator[Problem]:
    contents = row.get("contents")
    if (problem := check_text(number, "contents", contents)) is not None:
        yield problem
    elif "\n" not in str(contents):
        yield Problem(number, "contents", "has no line end between title and text")
    if not isinstance(row.get("id"), (str, int)):
        yield Problem(number, "id", "must be a text or a number")
