"""Which model is this? A short name of its content, for files that must not mix results of two."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SAMPLE = 1 << 20  # bytes read of each end of a large file


def fingerprint(model: Path) -> str:
    """Return 16 hexadecimal digits of a model: its files' names and sizes, and a MiB from both ends of each."""
    digest = hashlib.sha256()
    for path in sorted(model.iterdir()):
        if path.suffix not in (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:16]
