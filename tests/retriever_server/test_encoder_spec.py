"""What an encoder folder declares is applied or refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.encoder_declarations import DECLARATIONS, RECORDED, SHOWN, made
from support.encoder_declarations import TEXTS as DECLARED_TEXTS

from retriever_server.encoder import POOL, Encoder
from retriever_server.encoder_spec import E5_PREFIXES, POOLINGS, EncoderError, EncoderSpec

TEXTS = ["a cat sleeps", "the bank raised interest rates in spring"]


@pytest.fixture
def folder(encoder_folder: Path, tmp_path: Path) -> Path:
    """A copy of the encoder's folder that a test may change; the weights are a link."""
    return copy(encoder_folder, tmp_path / "model")


def copy(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for name in (
        "config.json",
        "tokenizer.json",
        "modules.json",
        "sentence_bert_config.json",
        "model.safetensors",
    ):
        if name == "model.safetensors":
            (target / name).symlink_to(source / name)
        else:
            (target / name).write_bytes((source / name).read_bytes())
    declare(
        target / "1_Pooling" / "config.json", **json.loads((source / "1_Pooling/config.json").read_text())
    )
    return target


def declare(path: Path, **values: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))


def vectors(folder: Path) -> np.ndarray:
    return Encoder(folder, EncoderSpec.of(folder), threads=1).queries(TEXTS)


@pytest.mark.parametrize("mode", list(POOL))
def test_both_spellings_of_a_pooling_give_the_same_vectors(folder: Path, mode: str) -> None:
    config = folder / "1_Pooling" / "config.json"
    declare(config, word_embedding_dimension=384, **{key: name == mode for key, name in POOLINGS.items()})
    old = vectors(folder)
    declare(config, embedding_dimension=384, pooling_mode=mode, include_prompt=True)
    assert EncoderSpec.of(folder).pooling == mode
    assert np.array_equal(vectors(folder), old)


def test_poolings_equal_their_definition() -> None:
    states = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], np.float32)[:, :, None]
    real = states[1, :2]
    expected = {
        "cls": real[0], "lasttoken": real[1], "max": real.max(0), "mean": real.mean(0),
        "mean_sqrt_len_tokens": real.sum(0) / 2**0.5, "weightedmean": (real[0] + 2 * real[1]) / 3,
    }  # fmt: skip
    for mode, value in expected.items():
        assert np.allclose(POOL[mode](states, mask)[1], value, atol=1e-6), mode


def test_several_poolings_are_concatenated(folder: Path) -> None:
    declare(folder / "1_Pooling" / "config.json", embedding_dimension=384, pooling_mode=["cls", "mean"])
    assert vectors(folder).shape == (2, 768)


def test_a_dense_layer_is_applied(folder: Path) -> None:
    from safetensors.numpy import save_file

    plain = vectors(folder)
    weight = np.random.default_rng(0).normal(size=(16, 384)).astype(np.float32)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"path": "3_Dense", "type": "sentence_transformers.base.modules.dense.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    declare(
        folder / "3_Dense" / "config.json", in_features=384, out_features=16, bias=False,
        activation_function="torch.nn.modules.activation.Tanh",
    )  # fmt: skip
    with pytest.raises(EncoderError, match="save the encoder again"):
        EncoderSpec.of(folder)
    save_file({"linear.weight": weight}, folder / "3_Dense" / "model.safetensors")
    expected = np.tanh(plain @ weight.T)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(vectors(folder), expected, atol=1e-5)


def test_vectors_for_the_dot_product_keep_their_length(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())[:2]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert np.allclose(np.linalg.norm(vectors(folder), axis=1), 1)
    declare(folder / "config_sentence_transformers.json", similarity_fn_name="dot")
    assert not np.allclose(np.linalg.norm(vectors(folder), axis=1), 1, atol=0.05)


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "attention"}, "attention"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "euclidean"}, "euclidean"),
        ("config_sentence_transformers.json", {"truncate_dim": 64}, "truncate_dim 64"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SparseEncoder"),
        ("sentence_bert_config.json", {"max_seq_length": 4096}, "max_seq_length 4096 with 512 positions"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side left"),
        ("sentence_bert_config.json", {"query_expansion": {"length": 32}}, "query_expansion"),
    ],
)
def test_what_cannot_be_applied_is_refused(
    folder: Path, file: str, values: dict[str, Any], named: str
) -> None:
    declare(folder / file, **values)
    with pytest.raises(EncoderError, match=named):
        EncoderSpec.of(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "[]"),
        ("modules.json", '{"a": 1}'),
        ("modules.json", '[{"path": ""}]'),
        ("1_Pooling/config.json", "[]"),
        ("1_Pooling/config.json", '{"pooling_mode": 3}'),
        ("sentence_bert_config.json", '{"max_seq_length": "many"}'),
        ("config_sentence_transformers.json", '{"prompts": ["query: "]}'),
        ("config_sentence_transformers.json", '{"prompts": {"query": 3}}'),
        ("tokenizer.json", '{"version": '),
        ("tokenizer.json", ""),
        ("model.safetensors", "half"),
        ("config.json", '{"model_type": "nosuch"}'),
    ],
)
def test_a_damaged_folder_is_one_line_with_its_name(folder: Path, file: str, content: str) -> None:
    (folder / file).unlink(missing_ok=True)
    (folder / file).write_text(content)
    with pytest.raises(EncoderError, match=r"Fix: ") as caught:
        Encoder(folder, EncoderSpec.of(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["WordWeights", "Router", "LayerNorm"])
def test_a_module_without_an_implementation_is_refused(folder: Path, module: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"path": "3", "type": f"sentence_transformers.models.{module}"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderError, match=module):
        EncoderSpec.of(folder)


def test_declared_length_and_case_are_applied(folder: Path) -> None:
    declare(folder / "sentence_bert_config.json", max_seq_length=6, do_lower_case=True)
    spec = EncoderSpec.of(folder)
    assert (spec.max_length, spec.lower_case) == (6, True)


def test_declared_prompts_are_applied(folder: Path) -> None:
    declare(folder / "config_sentence_transformers.json", prompts={"query": "search: ", "passage": "text: "})
    spec = EncoderSpec.of(folder)
    assert (spec.query_prefix, spec.passage_prefix) == ("search: ", "text: ")
    declare(folder / "1_Pooling" / "config.json", pooling_mode="mean", include_prompt=False)
    with pytest.raises(EncoderError, match="include_prompt"):
        EncoderSpec.of(folder)


def test_e5_prefixes_follow_the_hub_path_the_card_or_the_config(encoder_folder: Path, tmp_path: Path) -> None:
    snapshot = copy(encoder_folder, tmp_path / "models--intfloat--e5-base-v2" / "snapshots" / "1c64")
    assert EncoderSpec.of(snapshot).query_prefix == E5_PREFIXES[0]
    assert EncoderSpec.of(snapshot, "none").query_prefix == ""
    card = copy(encoder_folder, tmp_path / "encoder")
    assert EncoderSpec.of(card).query_prefix == ""
    (card / "README.md").write_text("---\nmodel-index:\n- name: e5-base-v2\n---\n# E5\n")
    assert EncoderSpec.of(card).passage_prefix == E5_PREFIXES[1]
    named = copy(encoder_folder, tmp_path / "config")
    config = json.loads((named / "config.json").read_text())
    (named / "config.json").write_text(
        json.dumps(config | {"_name_or_path": "intfloat/multilingual-e5-small"})
    )
    assert EncoderSpec.of(named).query_prefix == E5_PREFIXES[0]


@pytest.mark.parametrize("name", ["1a2e5b7c", "cafe5", "minilm"])
def test_a_hash_with_e5_in_it_gets_no_prefix(encoder_folder: Path, tmp_path: Path, name: str) -> None:
    assert EncoderSpec.of(copy(encoder_folder, tmp_path / name)).query_prefix == ""


def test_a_folder_whose_name_alone_says_e5_needs_the_option(encoder_folder: Path, tmp_path: Path) -> None:
    folder = copy(encoder_folder, tmp_path / "e5-base-v2")
    with pytest.raises(EncoderError, match="--encoder-prefixes e5 or none"):
        EncoderSpec.of(folder)
    assert EncoderSpec.of(folder, "e5").query_prefix == E5_PREFIXES[0]


def test_weights_that_are_not_the_models_are_refused(folder: Path) -> None:
    from safetensors.numpy import save_file

    (folder / "model.safetensors").unlink()
    save_file({"other.weight": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    with pytest.raises(EncoderError, match=r"lacks \d+ weights"):
        Encoder(folder, EncoderSpec.of(folder))


RECORDED_VECTORS = json.loads(RECORDED.read_text())
"""As sentence-transformers 5 computes them, see tests/support/encoder_declarations.py."""


@pytest.mark.parametrize("name", DECLARATIONS)
def test_vectors_are_those_of_sentence_transformers(encoder_folder: Path, tmp_path: Path, name: str) -> None:
    folder = made(name, encoder_folder, tmp_path / "model")
    encoder = Encoder(folder, EncoderSpec.of(folder), threads=1)
    for kind, expected in RECORDED_VECTORS[name].items():
        found = getattr(encoder, kind)(DECLARED_TEXTS)[:, :SHOWN]
        assert np.allclose(found, expected, atol=2e-5), kind
