"""Chat messages to prompt token ids: one function for the student's prompts and for the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sd_search_verl.protocol.base import Messages


def encode_messages(
    messages: Messages, tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None
) -> list[int]:
    """Token ids of a prompt, ready for the assistant's first token.

    Args:
        messages: chat messages with ``role`` and ``content``.
        tokenizer: with its chat template; without one the contents are joined as they are.
        template_kwargs: further arguments of the template.
    """
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **dict(template_kwargs or {})
        )
    else:
        text = "\n".join(message["content"] for message in messages)
    return list(tokenizer.encode(text, add_special_tokens=False))
