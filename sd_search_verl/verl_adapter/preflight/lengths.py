"""Room for the prompts: the length that the data set allows, and the context that the rollout engine has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.verl_adapter.tools import prompt_kwargs

LONG_PROMPT = Rule(
    "data.max_prompt_length",
    "the longest prompt has {longest} tokens, data.max_prompt_length={limit}, and data.truncation={truncation} is not "
    "what would happen: the agent loop keeps the last {limit} tokens",
    "set data.max_prompt_length to at least {longest}, data.filter_overlong_prompts=True, or data.truncation=left if "
    "prompts without their start are meant",
)
CUT_PROMPT = Rule(
    "data.max_prompt_length",
    "the longest prompt has {longest} tokens: of prompts longer than data.max_prompt_length={limit} the start is cut",
    "set data.max_prompt_length to at least {longest}, or data.filter_overlong_prompts=True",
    warns=True,
)
NO_ROOM = Rule(
    "actor_rollout_ref.rollout.max_model_len",
    "actor_rollout_ref.rollout.max_model_len={context} leaves no token to answer a prompt of {prompt}",
    "set it to data.max_prompt_length + data.max_response_length = {needed}, or to null",
)
LITTLE_ROOM = Rule(
    "actor_rollout_ref.rollout.max_model_len",
    "actor_rollout_ref.rollout.max_model_len={context} ends responses to a prompt of {prompt} tokens after {left}, "
    "before data.max_response_length={response}",
    "set it to data.max_prompt_length + data.max_response_length = {needed}, or to null",
    warns=True,
)
OTHER_LENGTH = Rule(
    "actor_rollout_ref.rollout.{name}",
    "actor_rollout_ref.rollout.{name}={own} is not data.max_{name}={data}: rollouts would have the first length, "
    "and the checks of lengths and the evaluation would take the second",
    "set data.max_{name}, and leave actor_rollout_ref.rollout.{name} out",
)


def check_lengths(config: DictConfig, prompts: Sequence[Messages]) -> Iterator[Finding]:
    """Check that data and rollout engine have the same lengths, and that the longest prompts fit.

    Args:
        prompts: those with the most characters, of all data files; may be empty.
    """
    data, limit = config.data, config.data.max_prompt_length
    for name in ("prompt_length", "response_length"):
        own = config.actor_rollout_ref.rollout.get(name)
        if own is not None and own != data[f"max_{name}"]:
            yield OTHER_LENGTH.finding(name=name, own=own, data=data[f"max_{name}"])
    longest = _longest(config, prompts)
    if longest is not None and longest > limit and not data.get("filter_overlong_prompts", True):
        rule = CUT_PROMPT if data.truncation == "left" else LONG_PROMPT
        yield rule.finding(longest=longest, limit=limit, truncation=data.truncation)
    context = config.actor_rollout_ref.rollout.max_model_len
    if context is None:
        return
    prompt = limit if longest is None else min(longest, limit)
    values = {"context": context, "prompt": prompt, "needed": limit + data.max_response_length}
    if context <= prompt:
        yield NO_ROOM.finding(**values)
    elif context < prompt + data.max_response_length:
        yield LITTLE_ROOM.finding(**values, left=context - prompt, response=data.max_response_length)


def _longest(config: DictConfig, prompts: Sequence[Messages]) -> int | None:
    """Return the tokens of the longest prompt, or None where there is none or no tokenizer to count them."""
    from transformers import AutoTokenizer

    model = config.actor_rollout_ref.model
    name = model.tokenizer_path or model.path
    if not prompts or "://" in name:
        return None
    try:
        kwargs = prompt_kwargs(config)
        tokenizer = AutoTokenizer.from_pretrained(
            os.path.expanduser(name), trust_remote_code=model.trust_remote_code
        )
        if model.custom_chat_template:
            tokenizer.chat_template = model.custom_chat_template
        return max(len(encode_messages(messages, tokenizer, kwargs)) for messages in prompts)
    except Exception:
        return None  # check_policy reports it
