"""Model and tokenizer: there, of one vocabulary, with a chat template."""

from __future__ import annotations

import os
from collections.abc import Iterator

from omegaconf import DictConfig

from sd_search_verl.finding import Finding

PADDING_SHARE = 0.01
"""Models pad their vocabulary to a round number: Qwen2.5 by 0.3 %. A larger excess is another tokenizer's model."""


def check_policy(config: DictConfig) -> Iterator[Finding]:
    """Model and tokenizer go together, and the tokenizer can render a chat."""
    from transformers import AutoConfig, AutoTokenizer

    model = config.actor_rollout_ref.model
    if "://" in model.path:  # verl copies it from there later
        return
    remote = model.trust_remote_code
    try:
        path = os.path.expanduser(model.path)
        tokenizer = AutoTokenizer.from_pretrained(model.tokenizer_path or path, trust_remote_code=remote)
        policy = AutoConfig.from_pretrained(path, trust_remote_code=remote)
    except Exception as error:
        found = f"{model.path} cannot be read: {str(error).strip().splitlines()[0]}"
        fix = "give a Hugging Face folder or name, with its tokenizer beside it"
        yield Finding("actor_rollout_ref.model.path", False, found, fix)
        return
    if not (model.custom_chat_template or getattr(tokenizer, "chat_template", None)):
        plain = "{% for message in messages %}{{ message.content }}{% endfor %}"
        yield Finding(
            "chat template",
            False,
            f"the tokenizer of {model.path} has no chat template",
            f"set actor_rollout_ref.model.custom_chat_template='{plain}' for a base model, or tokenizer_path to the "
            "tokenizer of the instruct model",
        )
    size, tokens = getattr(policy, "vocab_size", len(tokenizer)), len(tokenizer)
    if size < tokens:
        found = f"{model.path} has {size} embeddings, but its tokenizer makes ids up to {tokens - 1}"
        yield Finding(
            "vocabulary", False, found, "use the model's own tokenizer, or model.resize_token_embeddings"
        )
    elif size > tokens * (1 + PADDING_SHARE):
        found = (
            f"{model.path} has {size} embeddings and its tokenizer {tokens} tokens: rollouts never draw the "
            f"{size - tokens} others, training gives them probability, so the two disagree from the first step"
        )
        fix = f"model.resize_token_embeddings({tokens}) and save it, or use the model's own tokenizer"
        yield Finding("vocabulary", False, found, fix)
    else:
        yield Finding("vocabulary", True, f"{tokens} tokens, {size} embeddings")
