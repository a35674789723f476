"""Encode chat messages as prompt token ids: one function for the student's prompts and for the teacher's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.control_tokens import encode_marked, mark

_COMPARED = 40  # characters; a template may cut a long message


def text_messages(messages: Iterable[Mapping[str, Any]]) -> Messages:
    """Return chat messages whose content is one text each; a list of text parts (``{"type": "text"}``) is joined."""
    return [{**message, "content": _text(message["content"])} for message in messages]


def writes_time(messages: Messages, tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None) -> bool:
    """Return whether the chat template writes the time of rendering, so that a prompt is another one later."""
    clocks = ({"strftime_now": lambda _, now=now: now} for now in ("1", "2"))  # in place of transformers' own
    texts = (render_messages(messages, tokenizer, {**(template_kwargs or {}), **clock}) for clock in clocks)
    return len({*texts}) > 1


def leaves_out(messages: Messages, rendered: str) -> bool:
    """Return whether a rendered prompt lacks the beginning of its last message, white space apart.

    Templates of models that read images may want a list of parts, and write nothing of a text.
    """
    question, whole = ("".join(text.split()) for text in (messages[-1]["content"], rendered))
    return question[:_COMPARED] not in whole


def _text(content: Any) -> Any:
    if not isinstance(content, (list, tuple)):
        return content
    return "".join(part["text"] for part in content)


def encode_messages(
    messages: Messages,
    tokenizer: Any,
    template_kwargs: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = True,
) -> list[int]:
    """Return the token ids of a prompt that the assistant's first token follows.

    Control tokens that a message spells stay text; those of the assistant's messages are taken as they are.

    Args:
        messages: chat messages with ``role`` and ``content``.
        tokenizer: with its chat template; without one the contents are joined as they are.
        template_kwargs: further arguments of the template; ``chat_template`` takes the place of the tokenizer's.
        add_generation_prompt: whether the template begins the assistant's message.
    """
    marked, character = mark_messages(messages, tokenizer)
    text = render_messages(marked, tokenizer, template_kwargs, add_generation_prompt)
    return encode_marked(text, character, tokenizer)


def mark_messages(messages: Messages, tokenizer: Any) -> tuple[Messages, str]:
    """Return the messages with :func:`.mark` applied to the contents of all but the assistant's, and the mark."""
    given = [message for message in messages if message["role"] != "assistant"]
    contents, character = mark([message["content"] for message in given], tokenizer)
    marked = iter(contents)
    return [m if m["role"] == "assistant" else {**m, "content": next(marked)} for m in messages], character


def render_messages(
    messages: Messages,
    tokenizer: Any,
    template_kwargs: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = True,
) -> str:
    """Return the prompt as text, in the tokenizer's chat template where it has one.

    Base models get it too, as in Search-R1: Qwen2.5's base models have a template.
    """
    kwargs = dict(template_kwargs or {})
    if "chat_template" in kwargs or getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **kwargs
        )
        return str(text)
    return "\n".join(message["content"] for message in messages)
