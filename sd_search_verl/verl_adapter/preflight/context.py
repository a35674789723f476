"""The model's own context, ``max_position_embeddings``: verl holds the rollout engine to it, but not the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.preflight.files import is_remote
from sd_search_verl.verl_adapter.preflight.policy_files import load_model_config
from sd_search_verl.verl_adapter.settings import read_sd_search, read_search

BEYOND_MODEL = Rule(
    "actor_rollout_ref.rollout.max_model_len",
    "actor_rollout_ref.rollout.max_model_len={context} is more than max_position_embeddings={positions} of {path}: "
    "verl ends the start",
    "set it to {positions} at most, or use a model with a longer context",
)
LONG_TEACHER = Rule(
    "sd_search.hindsight.max_tokens",
    "the teacher's rows may have {rows} tokens, {prompt} of prompt, {block} of hindsight block and {response} of "
    "response: more than max_position_embeddings={positions} of {path}",
    "lower sd_search.hindsight.max_tokens or data.max_response_length, or use a model with a longer context",
    warns=True,
)


def load_context(config: DictConfig) -> tuple[int, bool] | None:
    """Return how many positions the model has as verl reads it, and whether its rotary positions are scaled.

    None where it cannot be read.
    """
    from verl.workers.rollout.utils import get_max_position_embeddings

    if is_remote(config.actor_rollout_ref.model.path):
        return None
    try:
        policy = load_model_config(config)
        return get_max_position_embeddings(policy), _is_scaled(policy)
    except Exception:
        return None  # check_policy reports it


def check_context(config: DictConfig, prompt: int, positions: int, scaled: bool) -> Iterator[Finding]:
    """Check the rollout engine and the longest row of the teacher against the model's positions.

    Args:
        prompt: tokens of the longest prompt.
        positions: of the model.
        scaled: whether more positions than these may be meant; then rows of the teacher are left alone.
    """
    path, context = config.actor_rollout_ref.model.path, config.actor_rollout_ref.rollout.max_model_len
    values = {"positions": positions, "path": path, "prompt": prompt}
    if context is not None and context > positions:
        yield BEYOND_MODEL.finding(**values, context=context)
    response, block = config.data.max_response_length, _block(config)
    rows = prompt + block + response
    if block and not scaled and prompt + response <= positions < rows:
        yield LONG_TEACHER.finding(**values, rows=rows, block=block, response=response)


def _block(config: DictConfig) -> int:
    """Return the most tokens of a hindsight block, labels of a short one not counted; 0 without a block."""
    method, search = read_sd_search(config), read_search(config)
    if method.alpha == 0 or method.hindsight.content == "none":
        return 0
    queries = config.actor_rollout_ref.rollout.n * search.max_turns * search.max_turn_tokens
    most = method.hindsight.max_tokens
    return min(most, queries) if method.hindsight.content == "queries" else most


def _is_scaled(policy: Any) -> bool:
    rope = getattr(policy, "rope_parameters", None) or {}
    layers = [layer for layer in rope.values() if isinstance(layer, dict)] or [rope]
    return any(layer.get("rope_type", "default") != "default" for layer in layers)
