"""Models of random weights by their shape, as Hugging Face has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.shapes import Shape
from sd_search_verl.world.tokenizer import save_tokenizer


def config_of(shape: Shape) -> Any:
    """Return the configuration of a shape."""
    return AutoConfig.for_model(
        "qwen2" if shape.biases else "qwen3",
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32768,
        bos_token_id=None,
        eos_token_id=1,
    )


def save_model(
    shape: Shape,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
    head_scale: float = 1.0,
) -> Path:
    """Write random weights as a folder; verl reads its models from disk.

    Args:
        head_scale: a larger head gives next-token distributions far from uniform, as a trained model's are.
    """
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config_of(shape)).to(dtype)
    with torch.no_grad():
        model.lm_head.weight.mul_(head_scale)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder
