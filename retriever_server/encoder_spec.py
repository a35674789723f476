"""Read what an encoder folder declares: pooling, layers, prompts and length, as sentence-transformers stores them.

A declaration that :mod:`.encoder` cannot apply is an error, because vectors computed without it are other vectors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import RetrieverError
from .manifest import sample_hash

E5_PREFIXES = ("query: ", "passage: ")
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "onnx/model.onnx")
POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Spelling of sentence-transformers before 5.5 -> ``pooling_mode`` of later ones; several are concatenated."""
# Keys of sentence_bert_config.json that say how the library calls transformers, not what the vectors are.
NEUTRAL_KEYS = {"transformer_task", "modality_config", "module_output_name", "method_output_name"}


class EncoderError(RetrieverError):
    """An encoder folder cannot be used. The message names the missing or unsupported part."""


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that determines an encoder's vectors; part of the manifest, as index and server must agree on it."""

    weights: str
    """Sample hash of the weights file, and of those of Dense layers."""
    pooling: str
    """Keys of :data:`encoder.POOL`, joined by ``+`` where their vectors are concatenated."""
    query_prefix: str
    passage_prefix: str
    max_length: int
    """Tokens; longer texts are truncated."""
    layers: list[str] = field(default_factory=lambda: ["normalize"])
    """Applied to the pooled vector in order: ``normalize``, or ``dense:FOLDER``."""
    lower_case: bool = False

    @classmethod
    def of(cls, folder: Path, prefixes: str = "auto") -> EncoderSpec:
        """Read the specification of an encoder folder.

        Args:
            prefixes: ``e5``, ``none``, or ``auto``: the folder's prompts, and E5's where its files name an E5 model.

        Raises:
            EncoderError: the folder lacks a file, or declares something that is not supported.
        """
        with reading(folder):
            return cls._read(folder, prefixes)

    @classmethod
    def _read(cls, folder: Path, prefixes: str) -> EncoderSpec:
        modules = _modules(folder)
        model = folder / modules[0][1]
        for name in ("config.json", "tokenizer.json"):
            if not (model / name).is_file():
                raise EncoderError(f"--encoder {model} has no {name}. Fix: give a folder of transformers.")
        found = [path for path in (model / name for name in WEIGHTS) if path.is_file()]
        if not found:
            raise EncoderError(f"--encoder {model} has none of {', '.join(WEIGHTS)}.")
        config, library = _json(model / "config.json"), _json(folder / "config_sentence_transformers.json")
        if config.get("is_encoder_decoder") or (model / "adapter_config.json").exists():
            raise _unsupported(model, "an encoder-decoder model or an adapter")
        pooling, include_prompt = _pooling(folder / modules[1][1])
        layers = _layers(folder, modules[2:], library)
        query, passage = _prefixes(folder, config, library, prefixes)
        if not include_prompt and (query or passage):
            raise _unsupported(folder, '"include_prompt": false')
        max_length, lower_case = _text_limits(model, config)
        hashes = [sample_hash(found[0])]
        for layer in layers:
            if layer != "normalize":
                hashes.append(sample_hash(dense_weights(folder / layer.removeprefix("dense:"))))
        weights = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        return cls(weights, pooling, query, passage, max_length, layers, lower_case)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def difference(self, other: EncoderSpec) -> str | None:
        """Return the first field in which the vectors of two folders differ; prefixes are an option of the build."""
        for name in ("weights", "pooling", "layers", "max_length", "lower_case"):
            if getattr(self, name) != getattr(other, name):
                return name
        return None


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Name the folder in the errors of the libraries that read it, which are of any class and mostly do not.

    Raises:
        EncoderError: in their place, on one line.
    """
    try:
        yield
    except (RetrieverError, ImportError):  # a message of its own; a library that is not installed
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise EncoderError(
            f"--encoder {folder} cannot be read ({type(error).__name__}: {reason}). Fix: save or download it again."
        ) from error


def model_folder(folder: Path) -> Path:
    """Return the folder of the transformer inside a sentence-transformers folder."""
    return folder / _modules(folder)[0][1]


def dense_weights(folder: Path) -> Path:
    """Return the weights file of a Dense layer.

    Raises:
        EncoderError: it is missing, or not safetensors.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise EncoderError(f"{path} is missing. Fix: save the encoder again with sentence-transformers.")
    return path


def _json(path: Path, kind: type[Any] = dict) -> Any:
    """Return the value in a file, an empty one where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else kind()
        if not isinstance(value, kind):
            raise ValueError(f"it holds a {type(value).__name__} in place of a {kind.__name__}")
    except ValueError as error:
        raise EncoderError(f"{path} is not JSON: {error}. Fix: download the encoder again.") from None
    return value


def _unsupported(folder: Path, what: str) -> EncoderError:
    return EncoderError(
        f"--encoder {folder} declares {what}, which is not supported, and vectors without it would be wrong. "
        "Fix: use another encoder, or compute the vectors with sentence-transformers and give --vectors."
    )


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Return (class name, folder) of each module: Transformer, Pooling, then the layers."""
    declared = _json(folder / "modules.json", list)
    if not declared:
        return [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in declared]
    if [name for name, _ in modules[:2]] != ["Transformer", "Pooling"]:
        raise _unsupported(folder, f"the modules {', '.join(name for name, _ in modules)} in modules.json")
    return modules


def _pooling(folder: Path) -> tuple[str, bool]:
    """Return the pooling, mean where none is declared, and whether it covers the tokens of a prompt."""
    config = dict(_json(folder / "config.json"))
    width_keys = ("word_embedding_dimension", "embedding_dimension")
    old = [mode for key, mode in POOLINGS.items() if config.pop(key, False)]
    modes = config.pop("pooling_mode", None) or old or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    include_prompt = bool(config.pop("include_prompt", True))
    unknown = [key for key, value in config.items() if key not in width_keys and value]
    if unknown or not set(modes) <= set(POOLINGS.values()):
        raise _unsupported(folder, f"the pooling {'+'.join([*modes, *unknown])}")
    return "+".join(modes), include_prompt


def _layers(folder: Path, modules: list[tuple[str, str]], library: dict[str, Any]) -> list[str]:
    """Return the layers behind the pooling. Vectors compared by cosine get a last normalisation."""
    layers = []
    for name, path in modules:
        config = _json(folder / path / "config.json")
        names = (config.get("module_input_name"), config.get("module_output_name"))
        if any(name not in (None, "sentence_embedding") for name in names):
            raise _unsupported(folder / path, "another input or output than the sentence's embedding")
        if name == "Normalize":
            layers.append("normalize")
        elif name == "Dense":
            activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
            if activation not in ("Tanh", "Identity") or config.get("use_residual"):
                raise _unsupported(folder / path, f"a Dense layer with {activation} or a residual")
            layers.append(f"dense:{path}")
        elif name != "Dropout":
            raise _unsupported(folder, f"the module {name} in modules.json")
    similarity = library.get("similarity_fn_name") or "cosine"
    kind = library.get("model_type", "SentenceTransformer")
    if similarity not in ("cosine", "dot") or library.get("truncate_dim") or kind != "SentenceTransformer":
        raise _unsupported(
            folder, f"similarity {similarity}, truncate_dim {library.get('truncate_dim')}, type {kind}"
        )
    if similarity == "cosine" and layers[-1:] != ["normalize"]:
        layers.append("normalize")
    return layers


def _prefixes(
    folder: Path, config: dict[str, Any], library: dict[str, Any], prefixes: str
) -> tuple[str, str]:
    """Return the texts before queries and passages."""
    if prefixes != "auto":
        return E5_PREFIXES if prefixes == "e5" else ("", "")
    prompts: dict[str, str] = library.get("prompts") or {}
    if not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise _unsupported(folder, "prompts that are no texts")
    default = prompts.get(library.get("default_prompt_name") or "") or ""
    query = prompts.get("query") or default
    passage = next(
        (prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), default
    )
    if query or passage:
        return query, passage
    found = [
        name for name in _model_names(folder, config) if re.search(r"(?:^|[/_-])e5(?:[_-]|$)", name.lower())
    ]
    if not found:
        return "", ""
    if "instruct" in found[0].lower() or found[0] == folder.name:
        raise EncoderError(
            f"--encoder {folder} is called {found[0]} and declares no prompts. Fix: give --encoder-prefixes e5 or "
            'none, or write "prompts": {"query": …, "document": …} into its config_sentence_transformers.json.'
        )
    return E5_PREFIXES


def _model_names(folder: Path, config: dict[str, Any]) -> list[str]:
    """Return the model's names: the hub's repository in a cache folder, the model card, the config, the folder."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0] if card.is_file() else ""
    cards = re.findall(r"^\s*-? ?name: (\S*e5\S*)$", head, re.MULTILINE | re.IGNORECASE)
    hub = [part for part in folder.absolute().parts if part.startswith("models--")]
    names = [part.replace("--", "/") for part in hub] + cards
    return [*names, str(config.get("_name_or_path", "")), folder.name]


def _text_limits(model: Path, config: dict[str, Any]) -> tuple[int, bool]:
    """Return the length limit in tokens, and whether texts are lower-cased."""
    declared = dict(_json(model / "sentence_bert_config.json"))
    limit, lower_case = declared.pop("max_seq_length", None), bool(declared.pop("do_lower_case", False))
    unknown = [key for key, value in declared.items() if value and key not in NEUTRAL_KEYS]
    if unknown:
        raise _unsupported(model, f"{', '.join(unknown)} in sentence_bert_config.json")
    if (side := _json(model / "tokenizer_config.json").get("truncation_side", "right")) != "right":
        raise _unsupported(model, f"truncation_side {side} in tokenizer_config.json")
    positions = int(config.get("max_position_embeddings") or 2**31)
    if "roberta" in str(config.get("model_type", "")) or config.get("model_type") in ("camembert", "mpnet"):
        positions -= int(config.get("pad_token_id") or 0) + 1  # their positions start behind the padding's
    usual = min(positions, int(_json(model / "tokenizer_config.json").get("model_max_length") or 2**31))
    if limit is None:
        limit = 512 if usual == 2**31 else usual
    if int(limit) > positions:
        raise _unsupported(model, f"max_seq_length {limit} with {positions} positions")
    return int(limit), lower_case
