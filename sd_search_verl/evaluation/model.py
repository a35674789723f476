"""Find the model to evaluate: a Hugging Face folder, or a checkpoint of verl's that is merged into one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.merge import merge
from sd_search_verl.files import read_json
from sd_search_verl.fingerprint import SHARDS, fingerprint

_ADAPTER_CONFIG = "adapter_config.json"


def find_weights(path: Path) -> Path:
    """Return the folder with the weights: a Hugging Face model, or the ``actor`` folder of a verl FSDP checkpoint.

    Args:
        path: Hugging Face folder, ``global_step_N`` or ``global_step_N/actor``.

    Raises:
        UserError: ``path`` holds neither, only adapters, a file without its end, or not the shards of all ranks.
    """
    actor = path / "actor" if (path / "actor").is_dir() else path
    sharded = any(actor.glob(SHARDS))
    for folder in (path, actor / "huggingface"):
        if not _has_weights(folder):
            continue
        if not _has_adapters(folder):
            return folder
        if not sharded:
            raise UserError(
                f"{folder} holds LoRA adapters, which would not be loaded. "
                "Fix: merge them into the base model with peft, and give the merged folder"
            )
    if not sharded:
        raise UserError(
            f"{path} holds no model: neither *.safetensors (Hugging Face) nor {SHARDS} (verl, FSDP)"
        )
    _check_shards(actor)
    return actor


def _check_shards(actor: Path) -> None:
    """Check that the shards of every rank of one training are there."""
    found: dict[int, set[int]] = {}
    for path in actor.glob(SHARDS):
        size, rank = map(int, re.findall(r"\d+", path.name)[:2])
        found.setdefault(size, set()).add(rank)
    if len(found) > 1:
        sizes = " and of ".join(map(str, sorted(found)))
        raise UserError(f"{actor} holds shards of {sizes} ranks. Fix: remove those of the earlier checkpoint")
    for size, ranks in found.items():
        if missing := {*range(size)} - ranks:
            raise UserError(
                f"{actor} has {len(ranks)} of the shards of {size} ranks; rank {min(missing)} is missing. Fix: copy "
                "the shards of every node into one folder"
            )


def resolve_model(path: Path, out: Path) -> Path:
    """Return a folder that vLLM loads; a verl FSDP checkpoint is merged into ``out/model-FINGERPRINT`` first.

    The name holds the checkpoint's fingerprint, so that a folder merged from another checkpoint is not taken for it.

    Args:
        path: as of :func:`find_weights`.
        out: folder of the evaluation.

    Raises:
        UserError: as :func:`find_weights`, or the checkpoint cannot be merged.
    """
    weights = find_weights(path)
    if _has_weights(weights):
        return weights
    merged = out / f"model-{fingerprint(weights)}"
    if not merged.is_dir():
        print(f"merging the shards of {weights} into {merged}", file=sys.stderr)
        out.mkdir(parents=True, exist_ok=True)
        merge(weights, merged)
    return merged


def _has_weights(folder: Path) -> bool:
    """Return whether a folder holds weights of Hugging Face's; a file that is cut short is an error."""
    for index in folder.glob("*.safetensors.index.json"):
        content = read_json(index)
        names = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise UserError(f"{index} has no weight_map. Fix: copy the model again")
        for name in {*names.values()}:
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder / name} is missing, and {index.name} names it. Fix: copy the model again"
                )
    files = [*folder.glob("*.safetensors")]
    for file in files:
        _tensor_names(file)
    return bool(files) or any(folder.glob("pytorch_model*.bin"))


def _has_adapters(folder: Path) -> bool:
    """Return whether the weights are adapters, or a model that peft has wrapped, which vLLM does not merge."""
    names = (name for file in folder.glob("*.safetensors") for name in _tensor_names(file))
    return (folder / _ADAPTER_CONFIG).is_file() or any("lora_" in name for name in names)


def _tensor_names(file: Path) -> list[str]:
    """Return the names of the tensors of a safetensors file.

    Raises:
        UserError: it is no file, or not whole.
    """
    if not file.is_file():
        raise UserError(f"{file} is a folder. Fix: copy or save the model again")
    try:
        with safe_open(file, framework="numpy") as tensors:
            return list(tensors.keys())
    except SafetensorError as error:
        size = f"{file.stat().st_size:,} bytes"
        raise UserError(f"{file} is incomplete ({size}). Fix: copy or save the model again") from error
