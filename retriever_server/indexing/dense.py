"""Encode a corpus into ``vectors.npy``, resumable, and on request an approximate FAISS index over it."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..corpus import Scan, passages
from ..encoder import Encoder, EncoderSpec
from . import faiss_approximate
from .base import WORK, BuildError, BuildOptions, Progress
from .faiss_flat import check_first, read_flat

CHUNK = 2048  # passages encoded between two notes of progress
CHECKED = 8  # vectors of others compared with the encoder's own


def build(
    documents: Path, scan: Scan, folder: Path, options: BuildOptions, progress: Progress
) -> dict[str, Any]:
    """Write ``vectors.npy`` (float32 ``[passages, d]``) and, with a factory string, ``faiss.index``.

    Returns:
        The build's settings, for the manifest: the encoder's description above all.
    """
    if options.encoder is None:
        raise BuildError("--encoder is missing: the folder of the encoder.")
    spec = EncoderSpec.of(options.encoder, options.encoder_prefixes)
    encoder = Encoder(options.encoder, spec, options.encoder_runtime, options.device, options.threads)
    path, note = folder / "vectors.npy", folder / WORK / "encoded.json"
    width = encoder.passages(["width"]).shape[1]
    shape = (scan.passages, width)
    given = None
    if options.vectors is not None:
        given, _index = read_flat(options.vectors, *shape)
        first = [contents for _, _, contents in itertools.islice(passages(documents), CHECKED)]
        check_first(given, first, encoder)
    done = _finished(path, note, spec, shape)
    vectors = np.lib.format.open_memmap(path, "r+" if done else "w+", np.float32, None if done else shape)
    with path.open(
        "rb+"
    ) as file:  # claim the disk now: writing to a mapped file on a full one ends the process
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    texts = (contents for _, _, contents in passages(documents))
    next(itertools.islice(texts, done, done), None)
    while chunk := list(itertools.islice(texts, CHUNK)):
        rows = slice(done, done + len(chunk))
        vectors[rows] = encoder.passages(chunk) if given is None else given[rows]
        done += len(chunk)
        vectors.flush()
        temporary = note.with_suffix(".tmp")
        temporary.write_text(json.dumps({"done": done, "encoder": spec.as_dict()}))
        temporary.rename(note)
        progress(done, scan.passages)
    if options.factory:
        target = folder / "faiss.index"
        faiss_approximate.build(vectors, options.factory, spec.weights, folder / WORK, target, progress)
    return {"encoder": spec.as_dict(), "width": width, "factory": options.factory}


def _finished(path: Path, note: Path, spec: EncoderSpec, shape: tuple[int, int]) -> int:
    """How many passages an earlier, stopped build has encoded with the same encoder."""
    if not path.is_file() or not note.is_file():
        return 0
    found = json.loads(note.read_text())
    same = found["encoder"] == spec.as_dict() and np.load(path, mmap_mode="r").shape == shape
    return int(found["done"]) if same else 0
