"""Encode texts with any BERT-like encoder folder (E5, sentence-transformers), by torch or ONNX Runtime."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .errors import RetrieverError
from .manifest import sample_hash

E5_PREFIXES = ("query: ", "passage: ")

States = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""Called with token ids, mask (both ``[batch, tokens]``) and threads; returns hidden states ``[batch, tokens, d]``."""


class EncoderError(RetrieverError):
    """An encoder folder cannot be used. The message names the missing part."""


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that determines an encoder's vectors; part of the manifest, as index and server must agree on it."""

    weights: str
    """Sample hash of the weights file."""
    pooling: Literal["mean", "cls"]
    query_prefix: str
    passage_prefix: str
    max_length: int
    """Tokens; longer texts are truncated."""

    @classmethod
    def of(cls, folder: Path, prefixes: str = "auto") -> EncoderSpec:
        """Read the specification of an encoder folder.

        Args:
            prefixes: ``e5``, ``none``, or ``auto``: e5 if the folder's name contains e5.

        Raises:
            EncoderError: the folder lacks a file.
        """
        weights = [folder / name for name in ("model.safetensors", "pytorch_model.bin", "onnx/model.onnx")]
        found = [path for path in weights if path.is_file()]
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise EncoderError(f"--encoder {folder} has no {name}. Fix: give a folder of transformers.")
        if not found:
            raise EncoderError(f"--encoder {folder} has none of {', '.join(path.name for path in weights)}.")
        pooling = _json(folder / "1_Pooling" / "config.json")
        e5 = prefixes == "e5" or (prefixes == "auto" and "e5" in folder.resolve().name.lower())
        limit = _json(folder / "sentence_bert_config.json").get("max_seq_length")
        longest = limit or _json(folder / "config.json").get("max_position_embeddings", 512)
        return cls(
            weights=sample_hash(found[0]),
            pooling="cls" if pooling.get("pooling_mode_cls_token") else "mean",
            query_prefix=E5_PREFIXES[0] if e5 else "",
            passage_prefix=E5_PREFIXES[1] if e5 else "",
            max_length=min(int(longest), 512),
        )

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


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
    """Unit-length float32 vectors of texts. One call at a time.

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
        from tokenizers import Tokenizer

        self.spec = spec
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(spec.max_length)
        self._tokenizer.no_padding()
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool: ThreadPoolExecutor | None = None
        if runtime not in RUNTIMES:
            raise EncoderError(f"--encoder-runtime {runtime} must be torch or onnx.")
        self._states = RUNTIMES[runtime](folder, device)
        if device == "cpu" and self._threads > 1:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="encoder")

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of search queries, float32 ``[len(texts), d]``."""
        return self._encode([self.spec.query_prefix + text for text in texts])

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of passages, float32 ``[len(texts), d]``."""
        return self._encode([self.spec.passage_prefix + text for text in texts])

    def _encode(self, texts: list[str]) -> np.ndarray:
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
        """Return unit vectors of the texts with indices ``order``, shortest text first."""
        vectors: dict[int, np.ndarray] = {}
        for batch in batches([len(encodings[i]) for i in order]):
            chosen = [order[place] for place in batch]
            padded = [encodings[i] for i in chosen]
            for encoding in padded:
                encoding.pad(len(padded[-1]))
            ids = np.array([encoding.ids for encoding in padded], np.int64)
            mask = np.array([encoding.attention_mask for encoding in padded], np.int64)
            states = self._states(ids, mask, threads)
            if self.spec.pooling == "cls":
                pooled = states[:, 0]
            else:
                weights = mask[:, :, None].astype(np.float32)
                pooled = (states * weights).sum(1) / weights.sum(1)
            pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
            vectors |= zip(chosen, pooled, strict=True)
        return vectors


def _torch(folder: Path, device: str) -> States:
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(str(folder), local_files_only=True, dtype=torch.float32)
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
    names = {item.name for item in session.get_inputs()}

    def states(ids: np.ndarray, mask: np.ndarray, threads: int) -> np.ndarray:
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        found = session.run(None, {name: value for name, value in given.items() if name in names})
        return np.asarray(found[0], np.float32)

    return states


RUNTIMES = {"torch": _torch, "onnx": _onnx}
