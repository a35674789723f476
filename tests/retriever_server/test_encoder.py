"""Encoders: what their vectors mean, and that both runtimes give the same ones."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from retriever_server.encoder import Encoder, batches
from retriever_server.encoder_spec import EncoderError, EncoderSpec

TEXTS = ["a cat sleeps", "", "Ποιος έχτισε τον πύργο;", "the bank raised interest rates " * 40]


def test_the_encoder_knows_what_words_mean(encoder_folder: Path) -> None:
    encoder = Encoder(encoder_folder, EncoderSpec.of(encoder_folder))
    cat, kitten, bank = encoder.queries(
        ["a cat sleeps", "a kitten is resting", "the bank raised interest rates"]
    )
    assert cat @ kitten > 0.5 > 0.2 > cat @ bank
    assert np.linalg.norm(cat) == pytest.approx(1.0, abs=1e-6)
    alone = encoder.queries(["a cat sleeps"])[0]
    assert np.abs(alone - cat).max() < 1e-5, "padding must not change a vector"


def test_e5_prefixes_reach_the_encoder(encoder_folder: Path) -> None:
    plain = Encoder(encoder_folder, EncoderSpec.of(encoder_folder))
    e5 = Encoder(encoder_folder, EncoderSpec.of(encoder_folder, "e5"))
    assert np.allclose(e5.queries(["cat"]), plain.queries(["query: cat"]), atol=1e-6)
    assert np.allclose(e5.passages(["cat"]), plain.passages(["passage: cat"]), atol=1e-6)
    assert not np.allclose(e5.queries(["cat"]), plain.queries(["cat"]), atol=1e-3)


@pytest.fixture(scope="module")
def tiny(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers, saved as transformers saves it and exported to ONNX."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="exports an encoder")
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny") / "encoder"
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        attn_implementation="eager",
    )
    model = BertModel(config).eval()
    model.save_pretrained(folder)
    shutil.copy(encoder_folder / "tokenizer.json", folder)

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    (folder / "onnx").mkdir()
    names = ["input_ids", "attention_mask"]
    ids = torch.ones(2, 5, dtype=torch.long)
    torch.onnx.export(
        States(), (ids, ids), folder / "onnx" / "model.onnx", input_names=names, output_names=["states"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in [*names, "states"]}, dynamo=False,
    )  # fmt: skip
    return folder


def test_onnx_runtime_gives_torchs_vectors(tiny: Path) -> None:
    spec = EncoderSpec.of(tiny)
    torch_vectors = Encoder(tiny, spec).queries(TEXTS)
    onnx_vectors = Encoder(tiny, spec, runtime="onnx").queries(TEXTS)
    assert torch_vectors.shape == onnx_vectors.shape == (4, 32)
    assert np.abs(torch_vectors - onnx_vectors).max() < 1e-5
    assert np.abs(torch_vectors[0] - torch_vectors[3]).max() > 0.01


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_threads_give_every_text_its_own_vector(tiny: Path, runtime: str) -> None:
    texts = [" ".join(f"word{number}" for number in range(i % 23 + 1)) for i in range(200)]
    spec = EncoderSpec.of(tiny)
    together = Encoder(tiny, spec, runtime, threads=3).queries(texts)
    alone = Encoder(tiny, spec, runtime, threads=1)
    expected = np.concatenate([alone.queries([text]) for text in texts])
    assert np.abs(together - expected).max() < 1e-6
    assert together.dtype == np.float32
    assert Encoder(tiny, spec, runtime, threads=3).queries([]).shape == (0, 0)


def test_a_folder_without_an_export_is_refused(encoder_folder: Path) -> None:
    with pytest.raises(EncoderError, match="export the encoder there"):
        Encoder(encoder_folder, EncoderSpec.of(encoder_folder), runtime="onnx")


def test_batches_hold_every_text_once_with_little_padding() -> None:
    lengths = sorted([7, 30, 8, 9, 300, 10, 8, 31, *[12] * 100])
    cut = batches(lengths)
    assert sorted(i for batch in cut for i in batch) == list(range(len(lengths)))
    assert max(map(len, cut)) == 64
    for batch in cut:
        assert lengths[batch[-1]] == max(lengths[i] for i in batch) <= 1.25 * min(lengths[i] for i in batch)
    assert batches([]) == []
