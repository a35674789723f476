"""Text to vectors: any BERT-like encoder folder (E5, sentence-transformers), with torch or ONNX Runtime."""

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

from .manifest import sample_hash

E5_PREFIXES = ("query: ", "passage: ")

States = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""Token ids and mask ``[batch, tokens]``, threads for this call -> hidden states ``[batch, tokens, d]``."""


class EncoderError(ValueError):
    """An encoder folder cannot be used. The message says what is missing."""


@dataclass(frozen=True)
class EncoderSpec:
    """What decides an encoder's vectors; part of an index's manifest, because both sides must agree."""

    weights: str
    """Sample hash of the weights file."""
    pooling: Literal["mean", "cls"]
    query_prefix: str
    passage_prefix: str
    max_length: int
    """Tokens; longer texts are cut."""

    @classmethod
    def of(cls, folder: Path, prefixes: str = "auto") -> EncoderSpec:
        """Read the folder's own description.

        Args:
            prefixes: ``e5``, ``none``, or ``auto`` (e5 where the folder's name says e5).

        Raises:
            EncoderError: not an encoder folder.
        """
        if prefixes not in ("auto", "e5", "none"):
            raise EncoderError(f"--encoder-prefixes {prefixes} must be auto, e5 or none.")
        weights = [folder / name for name in ("model.safetensors", "pytorch_model.bin", "onnx/model.onnx")]
        found = [path for path in weights if path.is_file()]
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise EncoderError(
                    f"--encoder {folder} has no {name}. Fix: give a folder as transformers saves it."
                )
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
    """Places of ascending lengths in batches whose longest is at most ``stretch`` times their shortest.

    64 search queries padded to the longest of them are twice the tokens.
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
        device: ``cpu`` or one GPU like ``cuda:0``; never more than the one named.
        threads: CPU threads; none means one per usable core.
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
        if runtime == "onnx":
            self._states = _onnx(folder, device)
        elif runtime == "torch":
            self._states = _torch(folder, device)
        else:
            raise EncoderError(f"--encoder-runtime {runtime} must be torch or onnx.")
        if device == "cpu" and self._threads > 1:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="encoder")

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """``[len(texts), d]`` float32, each row of length 1."""
        return self._encode([self.spec.query_prefix + text for text in texts])

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """``[len(texts), d]`` float32, each row of length 1."""
        return self._encode([self.spec.passage_prefix + text for text in texts])

    def _encode(self, texts: list[str]) -> np.ndarray:
        encodings = self._tokenizer.encode_batch(texts)
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i]))
        if self._pool is None or len(texts) < 2 * self._threads:
            parts = [self._part(encodings, order, self._threads)]
        else:
            # Threads that share one product wait for each other by spinning; with texts of their own they do not.
            shares = [order[number :: self._threads] for number in range(self._threads)]
            parts = list(self._pool.map(lambda share: self._part(encodings, share, 1), shares))
        vectors = {i: vector for part in parts for i, vector in part.items()}
        return np.stack([vectors[i] for i in range(len(texts))]) if texts else np.empty((0, 0), np.float32)

    def _part(self, encodings: list[Any], order: list[int], threads: int) -> dict[int, np.ndarray]:
        """Unit vectors of the texts ``order`` names, shortest first."""
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

    model = (
        AutoModel.from_pretrained(str(folder), local_files_only=True, dtype=torch.float32).to(device).eval()
    )

    def states(ids: np.ndarray, mask: np.ndarray, threads: int) -> np.ndarray:
        torch.set_num_threads(threads)  # of the calling thread
        with torch.inference_mode():
            out = model(
                input_ids=torch.from_numpy(ids).to(device), attention_mask=torch.from_numpy(mask).to(device)
            )
            return np.asarray(out.last_hidden_state.float().cpu().numpy())

    return states


def _onnx(folder: Path, device: str) -> States:
    import onnxruntime

    path = folder / "onnx" / "model.onnx"
    if not path.is_file():
        raise EncoderError(
            f"{path} is missing. Fix: export the encoder there, or use --encoder-runtime torch."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a session's number is fixed; each thread gets texts of its own instead
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
