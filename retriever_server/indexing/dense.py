"""Encode a corpus into ``vectors.npy``, resumably, and optionally build an approximate FAISS index of it."""

from __future__ import annotations

import itertools
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.registry import APPROXIMATE
from ..corpus import Scan, passages
from ..encoder import Encoder
from ..encoder_spec import EncoderSpec
from ..manifest import sample_hash
from . import faiss_approximate
from .base import WORK, Build, BuildError, BuildOptions, Progress
from .faiss_flat import check_vectors, open_flat, read_flat

VECTORS = "vectors.npy"
CHUNK = 2048  # passages encoded between two checkpoints
# Given vectors that are compared with the encoder's: at least so many, and one of so many.
MIN_CHECKED, CHECK_EVERY = 64, 512


def prepare(options: BuildOptions) -> Build:
    """Load the encoder, and return the build.

    Raises:
        BuildError: no encoder, or ``vectors`` or ``factory`` cannot be used with it.
        EncoderError: the encoder cannot be used.
    """
    if options.encoder is None:
        raise BuildError("--encoder is missing: the folder of the encoder.")
    spec = EncoderSpec.of(options.encoder, options.encoder_prefixes)
    encoder = Encoder(options.encoder, spec, options.encoder_runtime, options.device, options.threads)
    width = encoder.passages(["width"]).shape[1]
    if options.vectors is not None:
        open_flat(options.vectors, width)
    if options.factory:
        faiss_approximate.new_index(options.factory, None, width)
    return partial(_build, options, encoder, width)


def _build(
    options: BuildOptions, encoder: Encoder, width: int, scan: Scan, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write ``vectors.npy`` (float32 ``[passages, d]``) and, with a factory string, ``faiss.index``.

    Returns:
        The settings of the build, for the manifest.
    """
    spec, work = encoder.spec, folder / WORK
    path, checkpoint = work / VECTORS, work / "encoded.json"
    shape = (scan.passages, width)
    given = None
    if options.vectors is not None:
        given, _index = read_flat(options.vectors, *shape)
    if options.factory:
        faiss_approximate.new_index(options.factory, *shape)  # refused before the encoding
    check_every = max(1, min(CHECK_EVERY, scan.passages // MIN_CHECKED))
    source = {"encoder": spec.as_dict(), "vectors": sample_hash(options.vectors) if options.vectors else None}
    done = _encoded_passages(path, checkpoint, source, shape)
    if not done:  # what is left is of other vectors, and must not be taken for a part of these
        for stale in (checkpoint, *work.glob(faiss_approximate.CHECKPOINTS)):
            stale.unlink(missing_ok=True)
    vectors = np.lib.format.open_memmap(path, "r+" if done else "w+", np.float32, None if done else shape)
    # Allocate the disk space now: writing to a mapped file on a full disk kills the process (SIGBUS).
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    texts = (contents for _, contents in passages(scan.documents))
    next(itertools.islice(texts, done, done), None)
    while chunk := list(itertools.islice(texts, CHUNK)):
        rows = slice(done, done + len(chunk))
        if given is not None:
            check_vectors(given[rows], done, chunk, range(0, len(chunk), check_every), encoder)
        vectors[rows] = encoder.passages(chunk) if given is None else given[rows]
        done += len(chunk)
        vectors.flush()
        temporary = checkpoint.with_suffix(".tmp")
        temporary.write_text(json.dumps({"done": done, "source": source}))
        temporary.rename(checkpoint)
        progress(done, scan.passages)
    if options.factory:
        target = folder / APPROXIMATE
        faiss_approximate.build(vectors, options.factory, json.dumps(source), work, target, progress)
    try:
        # They stay in the work folder too, for a build that is stopped while it hashes its files, which takes minutes.
        os.link(path, folder / VECTORS)
    except OSError:  # a file system without hard links
        path.rename(folder / VECTORS)
    return {"encoder": spec.as_dict(), "width": width, "factory": options.factory}


def _encoded_passages(path: Path, checkpoint: Path, source: dict[str, Any], shape: tuple[int, int]) -> int:
    """Return the number of passages that an interrupted build has encoded from the same source."""
    if not path.is_file() or not checkpoint.is_file():
        return 0
    found = json.loads(checkpoint.read_text())
    same = found.get("source") == source and np.load(path, mmap_mode="r").shape == shape
    return int(found["done"]) if same else 0
