"""Identity of a model by the content of its files, so that files and results of two models are never mixed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tqdm import tqdm

_SUFFIXES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".py"}
SHARDS = "model_world_size_*_rank_*.pt"
"""Weights in a checkpoint of verl's, a file for each rank of FSDP."""
_CHUNK = 1 << 22  # bytes
_SHOWN_FROM = 1 << 30  # bytes; hashing less takes a few seconds and shows no progress bar


def fingerprint(model: Path) -> str:
    """Return 16 hexadecimal digits of a model: SHA-256 over the names, sizes and whole content of its files.

    Args:
        model: Hugging Face folder, or the ``actor`` folder of a verl checkpoint, whose optimizer state is left out.
    """
    files = _files(model)
    sizes = {path: path.stat().st_size for path in files}
    digest, total = hashlib.sha256(), sum(sizes.values())
    with tqdm(
        total=total, unit="B", unit_scale=True, desc=f"hashing {model.name}", disable=total < _SHOWN_FROM
    ) as bar:
        for path in files:
            digest.update(f"{path.relative_to(model)}\0{sizes[path]}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    bar.update(len(chunk))
    return digest.hexdigest()[:16]


def _files(model: Path) -> list[Path]:
    """Return weights, configs and tokenizer; verl keeps the latter two of a checkpoint in ``huggingface``."""
    folders = [model, model / "huggingface"]
    found = {path for folder in folders for path in folder.glob("*") if path.suffix in _SUFFIXES}
    return sorted(path for path in found | {*model.glob(SHARDS)} if path.is_file())
