"""Merge the shards of a verl FSDP checkpoint, and its LoRA adapters, into one Hugging Face model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from sd_search_verl.errors import UserError
from sd_search_verl.files import part_of, read_json
from sd_search_verl.launch.environment import ENVIRONMENT

ADAPTER = "lora_adapter"
"""Folder in verl's merged model with the adapters, which verl does not add to the weights."""


def merge(actor: Path, target: Path) -> None:
    """Write the model of a checkpoint to ``target``, which appears only once it is complete.

    Raises:
        UserError: verl's merger failed, or the adapters cannot be merged.
    """
    part = part_of(target)
    shutil.rmtree(part, ignore_errors=True)
    _merge_shards(actor, part)
    if (part / ADAPTER).is_dir():
        _merge_adapters(actor, part)
    part.replace(target)


def _merge_shards(actor: Path, target: Path) -> None:
    import torch

    # In another process, so that an evaluation does not import verl.
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    command += ["--local_dir", str(actor), "--target_dir", str(target)]
    environment = {} if torch.cuda.is_available() else ENVIRONMENT
    # verl loads the shards as pickles, which run any code of whoever wrote them, unless torch is told not to.
    variables = {**os.environ, **environment, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
    variables.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # torch refuses both
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    if done.returncode != 0 or not any(target.glob("*.safetensors")):
        raise UserError(
            f"verl could not merge {actor}; its output ends with:\n"
            + "\n".join((done.stdout + done.stderr).splitlines()[-15:])
            + f"\nFix: correct the cause and repeat; the command was\n  {' '.join(command)}"
        )


def _merge_adapters(actor: Path, folder: Path) -> None:
    """Add ``scale * B @ A`` to every adapted weight of the model in ``folder``.

    verl writes the base model and the adapters apart, and vLLM would load the base model alone.

    Raises:
        UserError: rank or scale are unknown, base weights are missing, or adapters fit no module.
    """
    import torch
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    options = read_json(folder / ADAPTER / "adapter_config.json")
    if not options["lora_alpha"]:
        raise UserError(
            f"{actor / 'lora_train_meta.json'} has no lora_alpha, so the scale of the adapters is unknown. "
            "Fix: restore that file, which verl writes with each checkpoint"
        )
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True
    )
    if loading["missing_keys"]:
        raise UserError(
            f"{actor} holds adapters without the base model's weights (checkpoint.save_contents=lora_only?), such as "
            f"{min(loading['missing_keys'])}. Fix: save the model too, or merge the adapters into the base with peft"
        )
    adapters = load_file(folder / ADAPTER / "adapter_model.safetensors")
    config = LoraConfig(
        r=options["r"], lora_alpha=options["lora_alpha"], target_modules=options["target_modules"]
    )
    try:
        adapted: Any = get_peft_model(model, config)
        loaded: Any = set_peft_model_state_dict(adapted, adapters)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the adapters of {actor} cannot be merged: {error}") from error
    unused = loaded.unexpected_keys
    expected = sum("lora_" in name for name, _ in adapted.named_parameters())
    if unused or expected != len(adapters):
        raise UserError(
            f"the adapters of {actor} cannot be merged: of {len(adapters)} tensors {len(unused)} fit no module, "
            f"and the model needs {expected}. Fix: merge them with peft, and give the merged folder"
        )
    for old in [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]:
        old.unlink()
    adapted.merge_and_unload(safe_merge=True).save_pretrained(folder)
    shutil.rmtree(folder / ADAPTER)
