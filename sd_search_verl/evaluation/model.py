"""The model to evaluate: a Hugging Face folder, or a checkpoint of verl's made into one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sd_search_verl.errors import UserError
from sd_search_verl.launch.environment import ENVIRONMENT


def resolve_model(path: Path, out: Path) -> Path:
    """Return a folder that vLLM loads; shards of a verl FSDP checkpoint are merged into ``out/model`` first.

    Args:
        path: Hugging Face folder, ``global_step_N`` or ``global_step_N/actor``.
        out: folder of the evaluation.

    Raises:
        UserError: ``path`` holds neither; the merger failed; the message ends with what it said.
    """
    actor = path / "actor" if (path / "actor").is_dir() else path
    if any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin")):
        return path
    if any((actor / "huggingface").glob("*.safetensors")):
        return actor / "huggingface"
    if not any(actor.glob("model_world_size_*_rank_*.pt")):
        raise UserError(
            f"{path} holds no model: neither *.safetensors (Hugging Face) nor "
            "model_world_size_*_rank_*.pt (verl, FSDP)"
        )
    merged = out / "model"
    if not any(merged.glob("*.safetensors")):
        print(f"merging the shards of {actor} into {merged}", file=sys.stderr)
        _merge(actor, merged)
    return merged


def _merge(actor: Path, merged: Path) -> None:
    import torch

    # In another process: whoever evaluates need not import verl.
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    command += ["--local_dir", str(actor), "--target_dir", str(merged)]
    environment = {} if torch.cuda.is_available() else ENVIRONMENT
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode != 0 or not any(merged.glob("*.safetensors")):
        raise UserError(
            f"verl could not merge {actor}; try it by hand:\n  {' '.join(command)}\nit said:\n"
            + "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        )
