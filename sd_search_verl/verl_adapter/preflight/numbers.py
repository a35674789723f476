"""Numbers that verl accepts although nothing would be learnt, or another number would be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.finding import Finding, Rule

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
_ALIKE = "all rollouts of a question would be alike, so no group has an advantage"


def _rules(fix: str, consequences: dict[str, str]) -> list[Rule]:
    return [Rule(option, f"{option}={{value}}: {what}", fix) for option, what in consequences.items()]


ABOVE_ZERO = _rules(
    "set it above 0",
    {
        f"{_ACTOR}.optim.lr": "no update would lower the loss",
        f"{_ACTOR}.optim.clip_grad": "every gradient would be scaled to nothing",
        f"{_ROLLOUT}.temperature": _ALIKE,
    },
)
SHARE = _rules(
    "set it above 0, to 1 at most",
    {
        f"{_ROLLOUT}.top_p": "vLLM refuses it, so every rollout would fail",
        f"{_ROLLOUT}.val_kwargs.top_p": "vLLM refuses it, so every rollout of the validation would fail",
        f"{_ROLLOUT}.gpu_memory_utilization": "it is vLLM's share of a card's memory",
    },
)
AT_LEAST_ONE = _rules(
    "set it to 1 or more",
    {
        f"{_ACTOR}.ppo_epochs": "no update would run",
        f"{_ACTOR}.ppo_mini_batch_size": "no update would run",
        f"{_ACTOR}.ppo_micro_batch_size_per_gpu": "no row would be read at a time",
        f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu": "no row would be read at a time",
        "data.max_response_length": "the policy could write no token",
        "data.val_batch_size": "no question would be read for the validation",
        "data.gen_batch_size": "no question would be read at a time",
        f"{_ROLLOUT}.agent.num_workers": "no agent loop would run",
        f"{_ROLLOUT}.val_kwargs.n": "the validation would draw no rollout",
        f"{_ROLLOUT}.max_num_seqs": "vLLM would run no sequence",
        f"{_ROLLOUT}.tensor_model_parallel_size": "a model needs one card at least",
        "reward.num_workers": "no process would score rollouts",
        "trainer.nnodes": "there would be no machine to train on",
        "trainer.n_gpus_per_node": "there would be no process to train in",
    },
)
NO_RANGE = Rule(
    f"{_ACTOR}.clip_ratio_low",
    f"{_ACTOR}.clip_ratio_low={{low}} and {_ACTOR}.clip_ratio_high={{high}} leave the policy no room: after a "
    "step's first update every token that moved as its advantage says is clipped",
    "set both above 0, such as 0.2",
)
UNREAD_CLIP = Rule(
    f"{_ACTOR}.clip_ratio",
    f"{_ACTOR}.clip_ratio={{clip}} changes nothing: verl clips by {_ACTOR}.clip_ratio_low={{low}} and "
    f"{_ACTOR}.clip_ratio_high={{high}}",
    f"set {_ACTOR}.clip_ratio_low and {_ACTOR}.clip_ratio_high, or both to null",
    warns=True,
)
STOCK_CLIP = 0.2
"""verl's default of all three."""
DUAL_CLIP = Rule(
    f"{_ACTOR}.clip_ratio_c",
    f"{_ACTOR}.clip_ratio_c={{value}}: verl ends the first update unless it is above 1",
    "set it to 3, verl's default",
)
ONE_TOKEN = Rule(f"{_ROLLOUT}.top_k", f"{_ROLLOUT}.top_k=1: {_ALIKE}", "set it to -1, which is no limit")
NO_LIMIT = [
    Rule(
        option,
        f"{option}=0 is no limit: verl reads every row",
        "set it to a number of rows, or to -1 if all are meant",
        warns=True,
    )
    for option in ("data.train_max_samples", "data.val_max_samples")
]
PADDED = Rule(
    f"{_ACTOR}.ppo_mini_batch_size",
    f"data.train_batch_size={{batch}} is no multiple of {_ACTOR}.ppo_mini_batch_size={{mini}}: verl fills every step "
    "with empty rollouts to those of {filled} questions, and an update sees fewer than {mini} questions",
    f"set {_ACTOR}.ppo_mini_batch_size to a divisor of {{batch}}",
    warns=True,
)


def check_numbers(config: DictConfig) -> Iterator[Finding]:
    """Check verl's options for numbers that make no sense for training."""
    is_wrong: dict[Rule, Callable[[Any], bool]] = {
        **dict.fromkeys(ABOVE_ZERO, lambda value: not value > 0),
        **dict.fromkeys(SHARE, lambda value: not 0 < value <= 1),
        **dict.fromkeys(AT_LEAST_ONE, lambda value: value < 1),
        DUAL_CLIP: lambda value: not value > 1,
        ONE_TOKEN: lambda value: value == 1,
        **dict.fromkeys(NO_LIMIT, lambda value: value == 0),
    }
    for rule, wrong in is_wrong.items():
        if (value := number(config, rule.name)) is not None and wrong(value):
            yield rule.finding(value=value)
    batch, mini = number(config, "data.train_batch_size"), number(config, PADDED.name)
    if batch and mini and mini > 0 and batch % mini:
        yield PADDED.finding(batch=batch, mini=mini, filled=-(-batch // mini) * mini)
    yield from _check_clip(config)


def _check_clip(config: DictConfig) -> Iterator[Finding]:
    clip, *sides = (number(config, f"{_ACTOR}.clip_ratio{side}") for side in ("", "_low", "_high"))
    low, high = (clip if side is None else side for side in sides)
    if low is None or high is None:
        return
    if min(low, high) < 0 or low + high == 0:
        yield NO_RANGE.finding(low=low, high=high)
    loss = OmegaConf.select(config, f"{_ACTOR}.policy_loss.loss_mode")
    if loss == "vanilla" and clip not in (None, STOCK_CLIP, low, high):  # other losses read clip_ratio
        yield UNREAD_CLIP.finding(clip=clip, low=low, high=high)


def number(config: DictConfig, option: str) -> Any:
    """Return the number in an option, None where it holds none: what reads the option refuses a word."""
    value = OmegaConf.select(config, option)
    return value if isinstance(value, (int, float)) else None
