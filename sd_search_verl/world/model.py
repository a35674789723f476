"""The world's model: the smallest Qwen2 found that learns to copy from its context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from sd_search_verl.errors import UserError
from sd_search_verl.pretrained import load_policy
from sd_search_verl.world.config import HEAD_DIM

HEADS = 4


def build_model(tokenizer: Any, seed: int = 0, head_dim: int = HEAD_DIM) -> Qwen2ForCausalLM:
    """Return a random fp32 decoder with the tokenizer's vocabulary.

    It has 0.39 M parameters, or 0.11 M with heads of 16, which learn as well but which vLLM does not run on a CPU.
    """
    if head_dim < 2 or head_dim % 2:
        raise UserError(f"head_dim={head_dim} must be even, and at least 2: positions turn pairs of numbers")
    torch.manual_seed(seed)
    config = Qwen2Config(
        # Equal sizes: rows that no token uses would make rollout and trainer disagree on log-probs.
        vocab_size=len(tokenizer),
        hidden_size=HEADS * head_dim,
        intermediate_size=2 * HEADS * head_dim,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        # Contexts are about 100 tokens long: with the usual base 10,000 most frequencies would stand still.
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.05,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config)


def load_model(checkpoint: Path) -> Any:
    """Return a checkpoint's model in fp32.

    Raises:
        UserError: the folder is no whole model.
    """
    return load_policy(checkpoint, dtype=torch.float32)
