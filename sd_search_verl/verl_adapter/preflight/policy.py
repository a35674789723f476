"""Model and tokenizer: there, of one vocabulary, with a chat template."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from sd_search_verl.errors import on_one_line
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.protocol.token_bytes import TokenizerError, byte_table
from sd_search_verl.verl_adapter.preflight.files import is_remote
from sd_search_verl.verl_adapter.preflight.policy_files import load_model_config, load_tokenizer
from sd_search_verl.verl_adapter.preflight.prompts import check_prompts, plain_template
from sd_search_verl.verl_adapter.preflight.tools import check_tools

PADDING_SHARE = 0.01
"""Models pad their vocabulary to a round number: Qwen2.5 by 0.3 %. A larger excess is another tokenizer's model."""

UNREADABLE = Rule(
    "actor_rollout_ref.model.path",
    "{path} cannot be read: {error}",
    "give a Hugging Face folder or name, with its tokenizer beside it",
)
NO_BYTES = Rule("tokenizer", TokenizerError.FOUND, TokenizerError.FIX)
NO_PAD = Rule(
    "tokenizer",
    "{path} names neither a padding nor an end-of-text token, and verl pads prompts and responses with one of them",
    "set pad_token or eos_token in its tokenizer_config.json",
)
NO_TEMPLATE = Rule(
    "chat template",
    "the tokenizer of {path} has no chat template",
    "set {override} for a base model, or actor_rollout_ref.model.tokenizer_path to the tokenizer of the instruct model",
)
FEW_EMBEDDINGS = Rule(
    "vocabulary",
    "{path} has {size} embeddings, but its tokenizer makes ids up to {last}",
    "use the model's own tokenizer, or model.resize_token_embeddings",
)
MANY_EMBEDDINGS = Rule(
    "vocabulary",
    "{path} has {size} embeddings and its tokenizer {tokens} tokens: rollouts never draw the {others} others, training "
    "gives them probability, so the two disagree from the first step",
    "model.resize_token_embeddings({tokens}) and save it, or use the model's own tokenizer",
)


def check_policy(config: DictConfig) -> Iterator[Finding]:
    """Check that model and tokenizer fit, and that the tokenizer renders the prompts of student and teacher."""
    model = config.actor_rollout_ref.model
    if is_remote(model.path):  # verl copies it from there later
        return
    try:
        tokenizer, policy = load_tokenizer(config), load_model_config(config)
    except Exception as error:
        yield UNREADABLE.finding(path=model.path, error=on_one_line(error)[:300])
        return
    try:
        byte_table(tokenizer)
    except TokenizerError as error:
        yield NO_BYTES.finding(kind=error.kind, reason=error.reason)
        return
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        yield NO_PAD.finding(path=model.tokenizer_path or model.path)
    if getattr(tokenizer, "chat_template", None):
        yield from check_prompts(config, tokenizer)
        yield from check_tools(config, tokenizer, policy.model_type)
    else:
        yield NO_TEMPLATE.finding(path=model.path, override=plain_template(tokenizer))
    size, tokens = getattr(policy, "vocab_size", len(tokenizer)), len(tokenizer)
    if size < tokens:
        yield FEW_EMBEDDINGS.finding(path=model.path, size=size, last=tokens - 1)
    elif size > tokens * (1 + PADDING_SHARE):
        yield MANY_EMBEDDINGS.finding(path=model.path, size=size, tokens=tokens, others=size - tokens)
    else:
        yield Finding("vocabulary", True, f"{tokens} tokens, {size} embeddings")
