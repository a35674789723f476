"""Dense search on the card: the encoder's vectors against the CPU's, the scan in 16 bits against the exact one."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch

from benchmarks.gpu.plan import DENSE_QUERIES, ERROR
from benchmarks.gpu.results import Run
from retriever_server.backends.dense import EXTRA, DenseRanker, FlatScan, HalfPrecisionScan
from retriever_server.encoder import Encoder
from retriever_server.encoder_spec import EncoderSpec
from sd_search_verl.world.config import CHECKPOINT

WIDTH, LAYERS, VECTORS = 768, 12, 4_000_000
"""Of E5-base; an index of Wikipedia has five times as many vectors."""
SMALL_WIDTH, SMALL_LAYERS, SMALL_VECTORS = 32, 2, 4_000
"""Of a rehearsal."""
PASSAGES, WORDS, COMPARED = 512, 150, 16
TOP_K, REPEATS, CHUNK = 3, 5, 500_000


def run(run: Run) -> None:
    """Compare both, and time them."""
    with tempfile.TemporaryDirectory() as name:
        _encoder(run, save_encoder(Path(name) / "encoder", *_shape(run)))
    _scan(run, *stored_vectors(run.device, VECTORS if run.gpu else SMALL_VECTORS, _shape(run)[0], run.seed))


def _shape(run: Run) -> tuple[int, int]:
    return (WIDTH, LAYERS) if run.gpu else (SMALL_WIDTH, SMALL_LAYERS)


def save_encoder(folder: Path, width: int, layers: int) -> Path:
    """Write a random BERT with the demo's tokenizer; return its folder."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    heads = {"num_attention_heads": width // 64 or 1, "intermediate_size": 4 * width}
    BertModel(BertConfig(hidden_size=width, num_hidden_layers=layers, **heads)).save_pretrained(folder)
    shutil.copy(CHECKPOINT / "tokenizer.json", folder)
    return folder


def texts(folder: Path, count: int, seed: int) -> list[str]:
    """Return passages of random words of the encoder's tokenizer."""
    from tokenizers import Tokenizer

    draw = Random(seed)
    words = sorted(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab())
    return ["".join(draw.choices(words, k=draw.randint(WORDS // 2, WORDS))) for _ in range(count)]


def _encoder(run: Run, folder: Path) -> None:
    device = "cuda:0" if run.gpu else "cpu"
    spec = EncoderSpec.of(folder)
    passages = texts(folder, PASSAGES if run.gpu else COMPARED, run.seed)
    encoder = Encoder(folder, spec, device=device)
    found = encoder.passages(passages[:COMPARED])
    expected = Encoder(folder, spec).passages(passages[:COMPARED])
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    seconds = timed(partial(encoder.passages, passages))
    rate = f"{len(passages) / seconds:.0f} passages of some {WORDS} tokens a second, fp32"
    run.record("encoder", ERROR, error + run.inject_error, rate)


def stored_vectors(device: str, count: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[count, width]`` random unit vectors, and queries near the first of them."""
    draw = torch.Generator(device).manual_seed(seed)

    def unit(rows: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(rows, width, generator=draw, device=device), dim=1)

    stored = np.empty((count, width), np.float32)
    for start in range(0, count, CHUNK):
        stored[start : start + CHUNK] = unit(min(CHUNK, count - start)).cpu().numpy()
    near = stored[: max(DENSE_QUERIES)] + 0.5 * unit(max(DENSE_QUERIES)).cpu().numpy()
    return stored, near.astype(np.float32)


class _Given:
    """An encoder that returns the queries' vectors by their numbers."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def queries(self, numbers: Sequence[str]) -> np.ndarray:
        return self._vectors[[int(number) for number in numbers]]


def _scan(run: Run, stored: np.ndarray, queries: np.ndarray) -> None:
    scan = HalfPrecisionScan(stored, "cuda:0" if run.gpu else "cpu")
    numbers = [str(number) for number in range(len(queries))]
    rankers = [DenseRanker(_Given(queries), stored, index) for index in (scan, FlatScan(stored))]  # type: ignore[arg-type]
    found, expected = ([[row for row, _ in hits] for hits in r.rank(numbers, TOP_K)] for r in rankers)
    differ = sum(ours != theirs for ours, theirs in zip(found, expected, strict=True)) / len(queries)
    size = f"{len(stored):,} vectors of {stored.shape[1]}"
    run.record("scan", ERROR, differ + run.inject_error, f"share of {len(queries)} queries; {size}")
    for count in DENSE_QUERIES:
        seconds = timed(partial(scan.propose, queries[:count], TOP_K + EXTRA))
        run.record(
            f"scan of {count} queries", "seconds", seconds, f"{size}; {count / seconds:.0f} queries a second"
        )


def timed(action: Callable[[], object]) -> float:
    """Return the median seconds; what comes back is on the host, so the device has finished."""
    action()
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)
