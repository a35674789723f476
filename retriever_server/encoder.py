"""Encode texts with any BERT-like encoder folder (E5, sentence-transformers), by torch or ONNX Runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .encoder_spec import EncoderError, EncoderSpec, dense_weights, model_folder, reading

States = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""Called with token ids, mask (both ``[batch, tokens]``) and threads; returns hidden states ``[batch, tokens, d]``."""

BERT_NORMALIZATION = {
    "lowercase": "do_lower_case",
    "strip_accents": "strip_accents",
    "handle_chinese_chars": "tokenize_chinese_chars",
}
"""Option of tokenizer.json's normalizer -> its name in tokenizer_config.json."""

Pool = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Called with hidden states ``[batch, tokens, d]`` and mask ``[batch, tokens, 1]``, padded on the right."""


def _weighted(states: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray((states * weights).sum(1) / weights.sum(1))


POOL: dict[str, Pool] = {
    "cls": lambda states, mask: states[:, 0],
    "max": lambda states, mask: np.where(mask > 0, states, -np.inf).max(1),
    "mean": _weighted,
    "mean_sqrt_len_tokens": lambda states, mask: (states * mask).sum(1) / np.sqrt(mask.sum(1)),
    "weightedmean": lambda states, mask: _weighted(states, mask * mask.cumsum(1)),
    "lasttoken": lambda states, mask: states[np.arange(len(states)), mask.sum(1)[:, 0].astype(int) - 1],
}
"""The poolings of sentence-transformers."""


def _normalize(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _layer(folder: Path, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of one layer behind the pooling, vectors ``[batch, d]`` to ``[batch, d']``."""
    if name == "normalize":
        return _normalize
    from safetensors.numpy import load_file

    place = folder / name.removeprefix("dense:")
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(dense_weights(place))
    weight, bias = tensors["linear.weight"].T, tensors.get("linear.bias", np.float32(0))
    identity = str(config.get("activation_function", "Tanh")).endswith("Identity")
    return lambda vectors: vectors @ weight + bias if identity else np.tanh(vectors @ weight + bias)


def _tokenizer(model: Path) -> Any:
    """Return the tokenizer; as in transformers, tokenizer_config.json has the last word on BERT's normalisation."""
    from tokenizers import Tokenizer, normalizers

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    found = json.loads(tokenizer.to_str())["normalizer"] or {}
    path = model / "tokenizer_config.json"
    if found.pop("type", None) == "BertNormalizer" and path.is_file():
        declared = json.loads(path.read_text(encoding="utf-8"))
        given = {name: declared[key] for name, key in BERT_NORMALIZATION.items() if key in declared}
        tokenizer.normalizer = normalizers.BertNormalizer(**{**found, **given})
    return tokenizer


def batches(lengths: Sequence[int], most: int = 64, stretch: float = 1.25) -> list[list[int]]:
    """Group indices of ascending lengths into batches whose longest is at most ``stretch`` times their shortest.

    Padded to the longest of 64, search queries have twice their tokens.
    """
    cut: list[list[int]] = []
    for i, length in enumerate(lengths):
        if not cut or len(cut[-1]) == most or length > stretch * lengths[cut[-1][0]]:
            cut.append([])
        cut[-1].append(i)
    return cut


class Encoder:
    """Float32 vectors of texts, of unit length unless the folder declares the dot product. One call at a time.

    Args:
        runtime: ``torch`` or ``onnx`` (``onnx/model.onnx`` in the folder).
        device: ``cpu`` or one GPU such as ``cuda:0``; no other is used.
        threads: CPU threads; one per usable core if None.
    """

    def __init__(
        self,
        folder: Path,
        spec: EncoderSpec,
        runtime: str = "torch",
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self.spec = spec
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool: ThreadPoolExecutor | None = None
        with reading(folder):
            model = model_folder(folder)
            self._tokenizer = _tokenizer(model)
            self._tokenizer.enable_truncation(spec.max_length)
            self._tokenizer.no_padding()
            self._states = RUNTIMES[runtime](model, device)
            self._pools = [POOL[name] for name in spec.pooling.split("+")]
            self._layers = [_layer(folder, name) for name in spec.layers]
        if device == "cpu" and self._threads > 1:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="encoder")

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors of search queries, float32 ``[len(texts), d]``."""
        return self._encode([self.spec.query_prefix + text for text in texts])

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors of passages, float32 ``[len(texts), d]``."""
        return self._encode([self.spec.passage_prefix + text for text in texts])

    def _encode(self, texts: list[str]) -> np.ndarray:
        if self.spec.lower_case:
            texts = [text.lower() for text in texts]
        encodings = self._tokenizer.encode_batch(texts)
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i]))
        if self._pool is None or len(texts) < 2 * self._threads:
            parts = [self._part(encodings, order, self._threads)]
        else:
            # BLAS threads that share one product wait for each other by spinning; with texts of their own they do not.
            shares = [order[number :: self._threads] for number in range(self._threads)]
            parts = list(self._pool.map(lambda share: self._part(encodings, share, 1), shares))
        vectors = {i: vector for part in parts for i, vector in part.items()}
        return np.stack([vectors[i] for i in range(len(texts))]) if texts else np.empty((0, 0), np.float32)

    def _part(self, encodings: list[Any], order: list[int], threads: int) -> dict[int, np.ndarray]:
        """Return vectors of the texts with indices ``order``, shortest text first."""
        vectors: dict[int, np.ndarray] = {}
        for batch in batches([len(encodings[i]) for i in order]):
            chosen = [order[place] for place in batch]
            padded = [encodings[i] for i in chosen]
            for encoding in padded:
                encoding.pad(len(padded[-1]))
            ids = np.array([encoding.ids for encoding in padded], np.int64)
            mask = np.array([encoding.attention_mask for encoding in padded], np.int64)
            states = self._states(ids, mask, threads)
            weights = mask[:, :, None].astype(np.float32)
            pooled = np.concatenate([pool(states, weights) for pool in self._pools], axis=1)
            for layer in self._layers:
                pooled = layer(pooled)
            vectors |= zip(chosen, pooled, strict=True)
        return vectors


def _no_gpu(device: str) -> EncoderError:
    return EncoderError(f"--device {device} is not a usable GPU of this machine. Fix: use --device cpu.")


def limit_gpu_memory(device: str, share: float) -> None:
    """Let torch take at most this share of a GPU's memory in this process, 0 to 1.

    Raises:
        EncoderError: the machine has no such GPU.
    """
    import torch

    try:
        index = torch.device(device).index
        torch.cuda.set_per_process_memory_fraction(
            share, torch.cuda.current_device() if index is None else index
        )
    except (AssertionError, RuntimeError, ValueError) as error:  # no CUDA, no such device, no GPU's name
        raise _no_gpu(device) from error


def _torch(folder: Path, device: str) -> States:
    import torch
    from transformers import AutoModel

    if device != "cpu" and not (torch.cuda.is_available() and torch.device(device).type == "cuda"):
        raise _no_gpu(device)
    model, found = AutoModel.from_pretrained(
        str(folder), local_files_only=True, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(name for name in found["missing_keys"] if "pooler" not in name)
    if missing:
        fix = "give the folder of the encoder that was trained"
        raise EncoderError(
            f"--encoder {folder} lacks {len(missing)} weights such as {missing[0]}. Fix: {fix}."
        )
    model = model.to(device).eval()

    def states(ids: np.ndarray, mask: np.ndarray, threads: int) -> np.ndarray:
        torch.set_num_threads(threads)  # of the calling thread
        with torch.inference_mode():
            tokens, seen = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
            out = model(input_ids=tokens, attention_mask=seen)
            return np.asarray(out.last_hidden_state.float().cpu().numpy())

    return states


def _onnx(folder: Path, device: str) -> States:
    import onnxruntime

    path = folder / "onnx" / "model.onnx"
    if not path.is_file():
        fix = "export the encoder there, or use --encoder-runtime torch"
        raise EncoderError(f"{path} is missing. Fix: {fix}.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # fixed per session; instead each of our threads has texts of its own
    provider: Any = "CPUExecutionProvider"
    if device != "cpu":
        provider = ("CUDAExecutionProvider", {"device_id": int(device.rsplit(":", 1)[-1])})
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    if device != "cpu" and "CUDAExecutionProvider" not in session.get_providers():
        raise _no_gpu(device)
    if len(session.get_outputs()[0].shape) != 3:
        raise EncoderError(f"{path} does not give hidden states first. Fix: export last_hidden_state alone.")
    names = {item.name for item in session.get_inputs()}

    def states(ids: np.ndarray, mask: np.ndarray, threads: int) -> np.ndarray:
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        found = session.run(None, {name: value for name, value in given.items() if name in names})
        return np.asarray(found[0], np.float32)

    return states


RUNTIMES = {"torch": _torch, "onnx": _onnx}
