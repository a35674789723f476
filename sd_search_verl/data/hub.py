"""Download files of the Hugging Face hub: resume a broken download, and verify it by the hub's checksum.

``hf_hub_download`` discards the partial file of a killed process, which costs hours for 65 GB of index.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from sd_search_verl.errors import UserError
from sd_search_verl.files import part_of

_CHUNK = 1 << 22  # bytes
_PLAIN = {"Accept-Encoding": "identity"}  # a compressed reply cannot be resumed by byte offset


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its URL, size in bytes and checksum."""

    name: str
    url: str
    size: int
    checksum: str
    """SHA-256 of the content of an LFS file, git's SHA-1 of any other."""


def find(
    repository: str,
    name: str,
    kind: Literal["dataset", "model"] = "dataset",
    instead: str = "data build --source FOLDER, corpus check FILE",
) -> RemoteFile:
    """Return URL, size and checksum of a file on the hub; HF_ENDPOINT chooses a mirror.

    Args:
        repository: on the hub.
        name: of the file.
        kind: of the repository.
        instead: options that take a copy which the user has, for the message.

    Raises:
        UserError: the hub does not answer, or has no such file.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, name, repo_type=kind)
    try:
        found = get_hf_file_metadata(url)
    # The errors are those of the HTTP client below huggingface_hub, which differs between its versions.
    except Exception as error:
        raise UserError(
            f"{repository}: {name} cannot be reached ({_first_line(error)}); set HF_ENDPOINT to a mirror, or give a "
            f"copy that you have: {instead}"
        ) from error
    if found.size is None:
        raise UserError(f"{url} has no size; is HF_ENDPOINT a mirror of the hub?")
    return RemoteFile(name, url, found.size, found.etag or "")


def download(file: RemoteFile, path: Path) -> Path:
    """Download a file to ``path`` through ``path.part``, from which a broken download resumes; return ``path``.

    Raises:
        UserError: the connection broke, or the checksum is not the hub's.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    part = part_of(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as target:
        try:
            if target.tell() > file.size:
                target.truncate(0)
                target.seek(0)  # where the file ends now
            http_get(
                file.url,
                target,
                resume_size=target.tell(),
                headers={**build_hf_headers(), **_PLAIN},
                expected_size=file.size,
                displayed_filename=file.name,
            )
        except Exception as error:  # see find()
            raise UserError(
                f"the download of {file.name} broke at {target.tell():,} of {file.size:,} bytes "
                f"({_first_line(error)}); start again to resume"
            ) from error
    if not agrees(part, file.checksum):
        part.unlink()
        raise UserError(
            f"{file.name} arrived damaged: its checksum is not the hub's {file.checksum}. It was removed; start again"
        )
    part.replace(path)
    return path


def check(file: RemoteFile, path: Path) -> Path:
    """Return ``path``, a file that was downloaded before.

    Raises:
        UserError: its size or its checksum is not the hub's.
    """
    size = path.stat().st_size
    if size != file.size:
        raise UserError(
            f"{path} has {size:,} bytes, the hub's file {file.size:,}: a broken download. Rename it to "
            f"{path.name}.part to go on from there, or remove it"
        )
    if not agrees(path, file.checksum):
        raise UserError(
            f"{path} is damaged: its checksum is not the hub's {file.checksum}. Remove it and start again"
        )
    return path


def agrees(path: Path, checksum: str) -> bool:
    """Return whether a file has this checksum; true where it is neither a SHA-256 nor git's SHA-1."""
    size = path.stat().st_size
    if len(checksum) == 64:
        digest = hashlib.sha256()
    elif len(checksum) == 40:
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    else:
        return True
    with (
        path.open("rb") as file,
        tqdm(total=size, unit="B", unit_scale=True, desc=f"checking {path.stem}") as bar,
    ):
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest() == checksum


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
