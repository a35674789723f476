"""The dense back end on a small corpus with a real encoder."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.retrieval_server import ask, running

from retriever_server import manifest as manifests
from retriever_server.backends.registry import open_engine
from retriever_server.encoder import Encoder, EncoderError, EncoderSpec
from retriever_server.settings import Settings

QUERIES = ["a passage on castles", "passage7 comet", "merchant at the harbour", "glacier", "violin library"]


def brute_force(
    index: Path, encoder: Encoder, queries: list[str], topk: int
) -> list[list[tuple[str, float]]]:
    vectors = np.load(index / "vectors.npy").astype(np.float64)
    scores = encoder.queries(queries).astype(np.float64) @ vectors.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :topk]
    return [
        [(f"doc-{row}", float(score[row])) for row in best] for best, score in zip(rows, scores, strict=True)
    ]


def test_dense_equals_brute_force(dense: str, dense_index: Path, encoder_folder: Path) -> None:
    encoder = Encoder(encoder_folder, EncoderSpec.of(encoder_folder))
    expected = brute_force(dense_index, encoder, QUERIES, 5)
    for ours, theirs in zip(ask(dense, QUERIES, 5), expected, strict=True):
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-6)


def test_blank_queries_and_large_topk(dense: str) -> None:
    blank, all_of_them = ask(dense, ["", "castle"], 100)
    assert blank == []
    assert len(all_of_them) == 40
    assert len({name for name, _ in all_of_them}) == 40


def test_another_encoder_is_refused(
    dense_index: Path, encoder_folder: Path, small: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(encoder_folder, tmp_path / "encoder"))
    with (other / "model.safetensors").open("rb+") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    settings = {"index": dense_index, "corpus": small, "encoder": other}
    with pytest.raises(manifests.IndexMismatchError, match="other weights"), running("dense", **settings):
        pass
    with pytest.raises(EncoderError, match=r"has no config.json"):
        EncoderSpec.of(tmp_path)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:x", "gpu0", "meta"])
@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_a_gpu_that_is_none_is_named(
    dense_index: Path, encoder_folder: Path, small: Path, device: str, runtime: Any
) -> None:
    import torch

    if torch.cuda.is_available() and device == "cuda:0":
        pytest.skip("there is a GPU")
    settings = {"encoder": encoder_folder, "encoder_runtime": runtime, "device": device}
    with pytest.raises(EncoderError, match=f"--device {device} is not a usable GPU of this machine. Fix: "):
        open_engine(Settings(backend="dense", index=dense_index, corpus=small, **settings))
