"""Room for prompt and response: in the data set, in the context of the rollout engine, and for a search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.protocol.base import Messages
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.verl_adapter.preflight.context import check_context, load_context
from sd_search_verl.verl_adapter.preflight.policy_files import try_tokenizer
from sd_search_verl.verl_adapter.rollout.tools import prompt_kwargs
from sd_search_verl.verl_adapter.settings import read_search

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
_HOLD = (
    "set it to data.max_prompt_length + data.max_response_length = {needed}, which the model's max_position_embeddings "
    "must hold, or lower these"
)
NO_ROOM = Rule(
    "actor_rollout_ref.rollout.max_model_len",
    "actor_rollout_ref.rollout.max_model_len={context} leaves no token to answer a prompt of {prompt}",
    _HOLD,
)
LITTLE_ROOM = Rule(
    "actor_rollout_ref.rollout.max_model_len",
    "actor_rollout_ref.rollout.max_model_len={context} ends responses to a prompt of {prompt} tokens after {left}, "
    "before data.max_response_length={response}",
    _HOLD,
    warns=True,
)
NO_SEARCH = Rule(
    "data.max_response_length",
    "data.max_response_length={response} is less than one search can need, {needed} tokens: two turns of "
    "search.max_turn_tokens={turn} and search.max_observation_tokens={observation} between them; an observation that "
    "does not fit ends the rollout without an answer",
    "set data.max_response_length to at least {needed}, better {whole} for search.max_turns={turns}, or lower "
    "search.max_turn_tokens or search.max_observation_tokens",
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
    yield from _check_search(config)
    prompt = limit if longest is None else min(longest, limit)
    context = shown = config.actor_rollout_ref.rollout.max_model_len
    if (model := load_context(config)) is not None:
        yield from check_context(config, prompt, *model)
        if context is None:
            context, shown = model[0], f"null, for this model {model[0]},"
    if context is None:
        return
    values = {"context": shown, "prompt": prompt, "needed": limit + data.max_response_length}
    if context <= prompt:
        yield NO_ROOM.finding(**values)
    elif context < prompt + data.max_response_length:
        yield LITTLE_ROOM.finding(**values, left=context - prompt, response=data.max_response_length)


def _check_search(config: DictConfig) -> Iterator[Finding]:
    """Check that a response has room for a query, an observation and an answer of the longest lengths."""
    search, response = read_search(config), config.data.max_response_length
    turn, observation, turns = search.max_turn_tokens, search.max_observation_tokens, search.max_turns
    needed, whole = (number * (turn + observation) + turn for number in (1, turns))
    if response < needed:
        values = {"turn": turn, "observation": observation, "turns": turns, "whole": whole}
        yield NO_SEARCH.finding(response=response, needed=needed, **values)


def _longest(config: DictConfig, prompts: Sequence[Messages]) -> int | None:
    """Return the tokens of the longest prompt, or None where there is none or no tokenizer to count them."""
    if not prompts or (tokenizer := try_tokenizer(config)) is None:
        return None
    try:
        kwargs = prompt_kwargs(config)
        return max(len(encode_messages(messages, tokenizer, kwargs)) for messages in prompts)
    except Exception:
        return None  # check_policy reports it
