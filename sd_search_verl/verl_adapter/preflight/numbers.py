"""Numbers with which verl starts, and nothing would be learnt."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.finding import Finding, Rule

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


def _rules(fix: str, consequences: dict[str, str]) -> dict[str, Rule]:
    return {option: Rule(option, f"{option}={{value}}: {what}", fix) for option, what in consequences.items()}


ABOVE_ZERO = _rules(
    "set it above 0",
    {
        f"{_ACTOR}.optim.lr": "no update would lower the loss",
        f"{_ACTOR}.grad_clip": "every gradient would be scaled to nothing",
        f"{_ROLLOUT}.temperature": "all rollouts of a question would be alike, so no group has an advantage",
        f"{_ROLLOUT}.top_p": "all rollouts of a question would be alike, so no group has an advantage",
    },
)
AT_LEAST_ONE = _rules(
    "set it to 1 or more",
    {
        f"{_ACTOR}.ppo_epochs": "no update would run",
        "data.max_response_length": "the policy could write no token",
        f"{_ROLLOUT}.agent.num_workers": "no agent loop would run",
    },
)
ONE_TOKEN = Rule(
    f"{_ROLLOUT}.top_k",
    f"{_ROLLOUT}.top_k=1: all rollouts of a question would be alike, so no group has an advantage",
    "set it to -1, which is no limit",
)
IGNORED = Rule(
    f"{_ROLLOUT}.do_sample",
    f"{_ROLLOUT}.do_sample=False changes nothing: verl's agent loop samples rollouts at {_ROLLOUT}.temperature",
    f"leave it out; {_ROLLOUT}.val_kwargs.do_sample is that of the validation",
    warns=True,
)


def check_numbers(config: DictConfig) -> Iterator[Finding]:
    """Check options of verl's that have a value without a sense for training."""
    for rules, bound in ((ABOVE_ZERO, 0), (AT_LEAST_ONE, 1)):
        for option, rule in rules.items():
            value = OmegaConf.select(config, option)
            if value is not None and (value < bound or value == 0):
                yield rule.finding(value=value)
    if OmegaConf.select(config, ONE_TOKEN.name) == 1:
        yield ONE_TOKEN.finding()
    if OmegaConf.select(config, IGNORED.name) is False:
        yield IGNORED.finding()
