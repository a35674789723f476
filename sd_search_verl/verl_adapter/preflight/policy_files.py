"""The policy's configuration and tokenizer, read as verl reads them."""

from __future__ import annotations

import os
from typing import Any

from omegaconf import DictConfig


def load_model_config(config: DictConfig) -> Any:
    """Return the model's configuration; raises what transformers raises."""
    from transformers import AutoConfig

    model = config.actor_rollout_ref.model
    return AutoConfig.from_pretrained(
        os.path.expanduser(model.path), trust_remote_code=model.trust_remote_code
    )


def load_tokenizer(config: DictConfig) -> Any:
    """Return the policy's tokenizer with its chat template; raises what transformers raises."""
    from transformers import AutoTokenizer

    model = config.actor_rollout_ref.model
    name = os.path.expanduser(model.tokenizer_path or model.path)
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=model.trust_remote_code)
    if model.custom_chat_template:
        tokenizer.chat_template = model.custom_chat_template
    return tokenizer


def try_tokenizer(config: DictConfig) -> Any:
    """Return the same, or None where it cannot be read here; check_policy reports why."""
    model = config.actor_rollout_ref.model
    if "://" in (model.tokenizer_path or model.path):  # verl copies it from there later
        return None
    try:
        return load_tokenizer(config)
    except Exception:
        return None
