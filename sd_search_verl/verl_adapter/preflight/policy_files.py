"""The policy's configuration and tokenizer, read as verl reads them."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import LocalEntryNotFoundError
from omegaconf import DictConfig, OmegaConf

from sd_search_verl.verl_adapter.preflight.files import is_remote


def load_model_config(config: DictConfig) -> Any:
    """Return the model's configuration with the user's overrides; raises what transformers and verl raise."""
    from transformers import AutoConfig
    from verl.utils.model import update_model_config

    model = config.actor_rollout_ref.model
    name = model.get("hf_config_path") or model.path
    policy = _once(AutoConfig, name, model.trust_remote_code)
    given: Any = OmegaConf.to_container(OmegaConf.create(model.get("override_config") or {}), resolve=True)
    update_model_config(policy, given.get("model_config", given))
    return policy


def load_tokenizer(config: DictConfig) -> Any:
    """Return the policy's tokenizer with its chat template; raises what transformers raises."""
    from transformers import AutoTokenizer

    model = config.actor_rollout_ref.model
    name = model.tokenizer_path or model.path
    tokenizer = _once(AutoTokenizer, name, model.trust_remote_code)
    if model.custom_chat_template:
        tokenizer.chat_template = model.custom_chat_template
    return tokenizer


_unanswered: dict[str, OSError] = {}


def _once(kind: Any, name: str, trust_remote_code: bool) -> Any:
    """Load from a folder or a hub; one that did not answer is not asked again, which takes half a minute each time."""
    if name in _unanswered:
        raise _unanswered[name]
    try:
        return kind.from_pretrained(name, trust_remote_code=trust_remote_code)
    except OSError as error:
        if isinstance(error.__cause__, LocalEntryNotFoundError):  # neither a hub nor its cache
            _unanswered[name] = error
        raise


def try_tokenizer(config: DictConfig) -> Any:
    """Return the same, or None where it cannot be read here; check_policy reports why."""
    model = config.actor_rollout_ref.model
    if is_remote(model.tokenizer_path or model.path):  # verl copies it from there later
        return None
    try:
        return load_tokenizer(config)
    except Exception:
        return None
