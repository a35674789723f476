"""Files of the Hugging Face hub: a download goes on where it broke, and counts when the hub's checksum agrees.

``hf_hub_download`` throws away what a killed process had fetched, which is much of a night for 65 GB of index.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from sd_search_verl.errors import UserError

_CHUNK = 1 << 22  # bytes
_PLAIN = {"Accept-Encoding": "identity"}  # a compressed answer cannot be gone on with by its length


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set repository: its address, size in bytes, and what the hub says that it holds."""

    name: str
    url: str
    size: int
    checksum: str
    """SHA-256 of its bytes where the hub keeps them apart (LFS), else git's SHA-1."""


def find(repository: str, name: str) -> RemoteFile:
    """Ask the hub (HF_ENDPOINT chooses a mirror) for a file.

    Raises:
        UserError: it does not answer, or has no such file.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, name, repo_type="dataset")
    try:
        found = get_hf_file_metadata(url)
    except (
        Exception
    ) as error:  # of the HTTP client that the hub's client has, which differs from version to version
        raise UserError(
            f"{repository}: {name} cannot be reached ({_first_line(error)}); set HF_ENDPOINT to a mirror, or give a "
            "copy that you have: data build --source FOLDER, corpus check FILE"
        ) from error
    if found.size is None:
        raise UserError(f"{url} has no size; is HF_ENDPOINT a mirror of the hub?")
    return RemoteFile(name, url, found.size, found.etag or "")


def download(file: RemoteFile, path: Path) -> Path:
    """Fetch a file to ``path``, which appears when it is whole; ``path.part`` is what a broken download goes on from.

    Raises:
        UserError: the connection broke for good, or the bytes are not the hub's.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as target:
        try:
            if target.tell() > file.size:
                target.truncate(0)
            http_get(
                file.url,
                target,
                resume_size=target.tell(),
                headers={**build_hf_headers(), **_PLAIN},
                expected_size=file.size,
                displayed_filename=file.name,
            )
        except Exception as error:  # as above
            raise UserError(
                f"the download of {file.name} broke at {target.tell():,} of {file.size:,} bytes "
                f"({_first_line(error)}); start again to go on from there"
            ) from error
    if not agrees(part, file.checksum):
        part.unlink()
        raise UserError(
            f"{file.name} arrived damaged: its checksum is not the hub's {file.checksum}. It was removed; start again"
        )
    part.replace(path)
    return path


def agrees(path: Path, checksum: str) -> bool:
    """Whether a file has the checksum that the hub names; true where that is neither SHA-256 nor git's SHA-1."""
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
