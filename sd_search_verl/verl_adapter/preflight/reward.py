"""The reward is EM or F1 of this package, or one that the user knows to be another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.scoring import DEFAULT_METRIC, METRICS, compute_score
from sd_search_verl.verl_adapter.settings import REWARD

_FUNCTION = "reward.custom_reward_function"
_MANAGER = "reward.reward_manager"
_NAME = compute_score.__name__

NO_REWARD = Rule(
    f"{_FUNCTION}.path",
    f"{_FUNCTION}.path is null: verl chooses a reward by data_source, which knows neither EM nor F1 of these answers",
    f"set {_FUNCTION}.path={REWARD}, and put `- sd_search: default` below `- ppo_trainer` in a config's defaults",
)
NO_FUNCTION = Rule(
    f"{_FUNCTION}.name",
    f"{_FUNCTION}.name={{name}} is not the reward of {REWARD}",
    f"set {_FUNCTION}.name={_NAME}",
)
OTHER_METRIC = Rule(
    f"{_FUNCTION}.reward_kwargs.metric",
    f"{_FUNCTION}.reward_kwargs.metric={{metric}} is none of {', '.join(METRICS)}",
    f"set ++{_FUNCTION}.reward_kwargs.metric=em",
)
OTHER_REWARD = Rule(
    f"{_FUNCTION}.path",
    f"{_FUNCTION}.path={{path}} is a reward of your own, while sd_search.hindsight.label={{label}} makes CORRECT and "
    "INCORRECT in the hindsight block",
    "nothing, if this is meant; else set sd_search.hindsight.label=reward, and "
    "sd_search.hindsight.correct_above_reward to the most that a wrong answer can get",
    warns=True,
)
OTHER_LABEL = Rule(
    "sd_search.hindsight.label",
    "sd_search.hindsight.label={label} calls rollouts CORRECT that the reward ({metric}) gives nothing, or the other "
    "way round: L_SD and GRPO then pull such rollouts apart",
    "nothing, if this is meant; else set sd_search.hindsight.label={metric}, or label=reward",
    warns=True,
)
OTHER_MANAGER = Rule(
    _MANAGER,
    f"{_MANAGER}={{manager}} may change what {_FUNCTION} returns, or never call it",
    f"nothing, if this is meant; else set {_MANAGER}.source=register and {_MANAGER}.name=naive",
    warns=True,
)
LEGACY = Rule(
    "{option}",
    "{option}={value} is an option of verl's earlier trainer, which this one never reads",
    "give it in the section reward: what was in custom_reward_function and sandbox_fusion under the same name, what "
    "was in reward_model as reward.num_workers, reward.reward_manager or reward.reward_model",
)
REWARD_MODEL = Rule(
    "reward.reward_model.enable",
    "reward.reward_model.enable=True scores rollouts with a model; EM and F1 are no longer the reward",
    "nothing, if this is meant; else set reward.reward_model.enable=False",
    warns=True,
)


def check_reward(config: DictConfig) -> Iterator[Finding]:
    """Check which function scores rollouts."""
    path, name = (OmegaConf.select(config, f"{_FUNCTION}.{option}") for option in ("path", "name"))
    for section in ("custom_reward_function", "reward_model", "sandbox_fusion"):
        for option, value in _given(OmegaConf.select(config, section) or {}, section):
            yield LEGACY.finding(option=option, value=value)
    label = (
        OmegaConf.select(config, OTHER_LABEL.name) if OmegaConf.select(config, "sd_search.alpha") else None
    )
    if not path:
        yield NO_REWARD.finding()
    elif is_ours(path):
        if name != _NAME:
            yield NO_FUNCTION.finding(name=name)
        metric = OmegaConf.select(config, f"{_FUNCTION}.reward_kwargs.metric") or DEFAULT_METRIC
        if metric not in METRICS:
            yield OTHER_METRIC.finding(metric=metric)
        elif label not in (None, metric, "reward"):
            yield OTHER_LABEL.finding(label=label, metric=metric)
    elif label not in (None, "reward"):
        yield OTHER_REWARD.finding(path=path, label=label)
    source, manager = (OmegaConf.select(config, f"{_MANAGER}.{option}") for option in ("source", "name"))
    if (source, manager) != ("register", "naive"):
        yield OTHER_MANAGER.finding(manager=manager if source == "register" else source)
    if OmegaConf.select(config, REWARD_MODEL.name):
        yield REWARD_MODEL.finding()


def is_ours(path: str) -> bool:
    """Return whether a path of a reward function is the one of this package, in either of verl's spellings."""
    return path.replace("/", ".") == REWARD.replace("/", ".")


def _given(section: Mapping[Any, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield the options of a section that are not null."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _given(value, f"{path}.{key}")
        elif value is not None:
            yield f"{path}.{key}", value
