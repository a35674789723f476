"""The world's model: as small as it can be and still learn from its context."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

HEAD_DIM = 32
"""The smallest head of vLLM's CPU attention. With Qwen3, unlike Qwen2, it need not be width / heads."""


def build_model(tokenizer: Any, seed: int = 0) -> Qwen3ForCausalLM:
    """A random decoder of about 0.14 M parameters, fp32, whose vocabulary is the tokenizer's."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        # Equal sizes: rows that no token uses would make rollout and trainer disagree on log-probs.
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=HEAD_DIM,
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
    return Qwen3ForCausalLM(config)
