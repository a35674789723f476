"""verl's continuous-token builder of a model: it encodes the messages of the environment that follow a turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verl.utils.tokenizer.chat_template import apply_chat_template
from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder
from verl.utils.tokenizer.continuous_token_wiring import (
    ContinuousTokenModelFamily,
    create_continuous_token_builder,
    infer_continuous_token_model_family,
)

from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.control_tokens import encode_marked
from sd_search_verl.protocol.families import CHATML_ENDS
from sd_search_verl.protocol.prompt import encode_messages, mark_messages, text_messages


def context_builder(
    tokenizer: Any, model_type: str | None, template_kwargs: Mapping[str, Any]
) -> ContinuousTokenBuilder:
    """Return verl's builder, for which control tokens that a message spells are text.

    Args:
        tokenizer: of the policy, with its chat template.
        model_type: root ``model_type`` of the model's config.
        template_kwargs: further arguments of the chat template; verl passes the tools separately.

    Raises:
        ValueError: verl has no builder for the model.
    """
    builder = create_continuous_token_builder(
        _SafeTokenizer(tokenizer),
        model_family=_builder_family(tokenizer, model_type),
        chat_template_kwargs={k: v for k, v in template_kwargs.items() if k != "tools"},
    )
    builder.render_delta_token_id = _TextDelta(builder, tokenizer)
    return builder


class _TextDelta:
    """Encodes appended messages without the messages before them, where the tokens are the same.

    verl's builder encodes the messages before, with all tools, twice: alone and with the appended ones. No token
    crosses the start of an added token, so the text from there on has the same tokens alone.
    """

    def __init__(self, builder: ContinuousTokenBuilder, tokenizer: Any) -> None:
        self._encode_both, self._kwargs = builder.render_delta_token_id, builder.chat_template_kwargs
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        # The others depend on the text before them.
        self._starts = tuple(
            one.content for one in added if not (one.lstrip or one.normalized or one.single_word)
        )

    def __call__(
        self,
        prefix_messages: Messages,
        appended_messages: Messages,
        *,
        add_generation_prompt: bool = False,
        tools: list[dict[str, Any]] | None = None,
    ) -> list[int]:
        """Return the token ids that the appended messages add to the messages before."""
        messages, character = mark_messages(
            text_messages([*prefix_messages, *appended_messages]), self._tokenizer
        )
        prefix = self._render(messages[: len(prefix_messages)], False, tools)
        whole = self._render(messages, add_generation_prompt, tools)
        appended = whole[len(prefix) :]
        if whole.startswith(prefix) and appended.startswith(self._starts):
            return encode_marked(appended, character, self._tokenizer)
        return self._encode_both(
            prefix_messages, appended_messages, add_generation_prompt=add_generation_prompt, tools=tools
        )

    def _render(self, messages: Messages, add_generation_prompt: bool, tools: Any) -> str:
        text = apply_chat_template(
            self._tokenizer,
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            **self._kwargs,
        )
        return str(text)


class _SafeTokenizer:
    """A tokenizer whose chat template leaves control tokens that a message spells as text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def apply_chat_template(
        self, messages: Messages, tokenize: bool, add_generation_prompt: bool, **kwargs: Any
    ) -> list[int]:
        """Return token ids; see :func:`.encode_messages`."""
        assert tokenize
        kwargs.pop("return_dict", None)
        return encode_messages(text_messages(messages), self._tokenizer, kwargs, add_generation_prompt)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def _builder_family(tokenizer: Any, model_type: str | None) -> ContinuousTokenModelFamily:
    """Return verl's token builder for a type of model; one that verl does not know gets ChatML's if it speaks ChatML.

    verl's general builder leaves out the line end behind ``<|im_end|>``, which a ChatML template writes.
    """
    family = infer_continuous_token_model_family(hf_model_type=model_type)
    is_chatml = CHATML_ENDS[0] in tokenizer.added_tokens_encoder
    general = family == ContinuousTokenModelFamily.DEFAULT
    return ContinuousTokenModelFamily.QWEN if general and is_chatml else family
