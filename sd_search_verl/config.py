"""The configuration: every option, its default and its allowed values. Nothing else holds a default.

``+sd_search=default`` on the command line of ``verl.trainer.main_ppo`` adds the sections ``sd_search:`` (the
method), ``search:`` (the agent loop) and ``health:`` (alarms), filled from the dataclasses below.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sd_search_verl.errors import UserError


class ConfigError(UserError, ValueError):
    """A configuration value is wrong. The message names the field, the value and what is allowed."""


Divergence = Literal["jsd", "forward_kl", "reverse_kl", "mse"]
SupportKind = Literal["teacher", "union"]
Tail = Literal["bucket", "renormalize"]


@dataclass(frozen=True)
class HindsightConfig:
    """What the teacher sees in addition to the student's context."""

    content: Literal["queries", "full", "current_documents", "none"] = "queries"
    """queries: every rollout's queries (the method). full: whole rollouts, no future masking. current_documents:
    the documents the scored query retrieved, one teacher row per query. none: no block, the teacher is the student."""
    labels: Literal["outcome", "none", "shuffled"] = "outcome"
    """outcome: CORRECT or INCORRECT per rollout. none: no label. shuffled: labels permuted over the whole batch."""
    group: Literal["all", "own", "leave_one_out", "correct_only"] = "all"
    """Which rollouts of the question enter the block, seen from the rollout that is scored."""
    correct_above_f1: float = 0.0
    """A rollout is CORRECT when its answer's token F1 is greater than this."""
    placement: Literal["before_question", "after_question", "system"] = "before_question"
    """Start of the last user message, end of it, or end of the system message (made if absent)."""
    max_tokens: int = 1024
    """Longest block. A longer one loses rollouts from its end (never the scored one); this is counted."""


@dataclass(frozen=True)
class SDSearchConfig:
    """The distillation term of L = L_GRPO + alpha * L_SD."""

    alpha: float = 1.0e-3
    """Weight of L_SD."""
    warmup_steps: int = 50
    """Training steps at the start with alpha 0; nothing of the method is computed in them."""
    divergence: Divergence = "jsd"
    """Between teacher and student at one position; forward_kl is KL(teacher || student)."""
    top_k: int | None = 50
    """Vocabulary entries compared one by one; null = the full vocabulary."""
    support: SupportKind = "teacher"
    """Whose top_k entries are compared: the teacher's, or the union with the student's."""
    tail: Tail = "bucket"
    """bucket: all other entries form one more entry. renormalize: they are dropped and the rest renormalised."""
    positions: Literal["query", "response"] = "query"
    """query: tokens strictly inside the search tags. response: every token of the policy."""
    weighting: Literal["uniform", "group_variance"] = "uniform"
    """group_variance multiplies a trajectory's term by sqrt(p (1 - p)), p = its group's share of CORRECT."""
    target: Literal["teacher", "uniform"] = "teacher"
    """uniform replaces the teacher by the uniform distribution over the whole vocabulary, whatever ``top_k`` says: a
    control that must not help."""
    chunk_rows: int = 128
    """Scored tokens whose fp32 distributions exist at a time; each takes about 14 V bytes (30 V without top-k)."""
    hindsight: HindsightConfig = field(default_factory=HindsightConfig)


@dataclass(frozen=True)
class SearchConfig:
    """The agent loop: how a rollout searches."""

    retriever_urls: list[str] = field(default_factory=lambda: ["http://127.0.0.1:8000/retrieve"])
    """Retrieval servers; more than one are spread over and fail over."""
    top_k: int = 3
    """Documents per query."""
    max_turns: int = 5
    """Turns in which a search may be executed; one more turn follows in which only an answer counts."""
    max_observation_tokens: int = 512
    """Longest observation; a longer one is cut, and counted."""
    max_turn_tokens: int = 512
    """Longest generation in one turn."""
    protocol: Literal["search_r1", "autorefine"] = "search_r1"
    """Tags and observation text."""
    timeout_s: float = 30.0
    """Total time one search may take, retries included."""
    max_retries: int = 3
    """Further tries after the first."""
    max_loading_s: float = 1800.0
    """How long a start waits for retrievers that are loading their index (HTTP 503)."""
    max_failure_rate: float | None = None
    """Stop the run when a larger share of a step's searches failed; null = never."""
    traces_per_step: int = 40
    """Rollouts a step, in whole groups, written to traces.jsonl in trainer.default_local_dir; 0 = none."""
    sampling_seed: int | None = None
    """A number makes every rollout's sampling depend on it, the step, the question, the rollout's place in its group
    and the turn, and on nothing else, so that a resumed run samples as an uninterrupted one. null = the rollout
    engine's own random state, which is faster on GPUs and starts anew when a run is resumed."""


@dataclass(frozen=True)
class HealthConfig:
    """When a run is unhealthy. Warnings do not stop it. Every level is a mean over ``window`` steps; null = no alarm.

    The run is its own reference: its first window, or its best one where that is said. The values are our choice.
    """

    stop_on_non_finite: bool = True
    """Stop the run when a loss is NaN or infinite, after the batch was saved; no checkpoint follows."""
    window: int = 10
    """Steps of a level. No alarm of a level comes before two windows are full."""
    min_searches_per_rollout: float | None = 0.1
    """The policy has stopped to search."""
    max_searches_change: float | None = 3.0
    """Searches per rollout above the first window's, times this."""
    response_length_range: list[float] | None = field(default_factory=lambda: [0.3, 3.0])
    """Mean response length relative to the first window's: shorter or longer is an alarm."""
    entropy_range: list[float] | None = field(default_factory=lambda: [0.1, 3.0])
    """The policy's entropy relative to the first window's."""
    max_reward_drop: float | None = 0.5
    """Share of the best window's reward that is lost."""
    max_correct_log_prob_drop: float | None = 0.3
    """Nats per policy token by which the CORRECT rollouts of a window have become less likely than in the best one."""
    max_partial_groups: float | None = 0.0
    """Share of a step's groups that lack rollouts; looked at step by step."""


T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    """Build ``cls`` from plain values (as OmegaConf.to_container gives them) and check every field.

    Args:
        cls: one of the dataclasses of this module.
        values: field values; fields left out keep their defaults.
        path: dotted name of the section, for messages.

    Raises:
        ConfigError: unknown field, wrong type or value not allowed.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}={values!r} must be a section with fields, not {type(values).__name__}")
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{path}.{unknown[0]} is not a field; the fields are {', '.join(sorted(hints))}")
    checked = {name: _check(hints[name], value, f"{path}.{name}") for name, value in values.items()}
    config = cls(**checked)
    _check_ranges(config, path)
    return config


def to_mapping(config: Any) -> dict[str, Any]:
    """Plain nested dict of a config dataclass."""
    return dataclasses.asdict(config)


def _check(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, path)
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{path}={value!r} is not one of {', '.join(map(str, get_args(hint)))}")
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (inner,) = [arg for arg in get_args(hint) if arg is not type(None)]
        return _check(inner, value, path)
    if origin is list:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path}={value!r} must be a list, for instance [{value}]")
        return [_check(get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"{path}={value!r} must be a finite number")
        return float(value)
    if isinstance(value, bool) != (hint is bool) or not isinstance(value, hint):
        raise ConfigError(f"{path}={value!r} must be of type {hint.__name__}")
    return value


def _check_ranges(config: Any, path: str) -> None:
    def require(ok: bool, name: str, rule: str) -> None:
        if not ok:
            raise ConfigError(f"{path}.{name}={getattr(config, name)!r} must be {rule}")

    if isinstance(config, SDSearchConfig):
        require(config.alpha >= 0, "alpha", "at least 0")
        require(config.warmup_steps >= 0, "warmup_steps", "at least 0")
        require(
            config.top_k is None or config.top_k >= 1, "top_k", "at least 1, or null for the full vocabulary"
        )
        require(config.chunk_rows >= 1, "chunk_rows", "at least 1")
        if config.top_k == 1 and config.tail == "renormalize" and config.support == "teacher":
            # One entry renormalised is the constant 1: no gradient, at any alpha.
            raise ConfigError(
                f"{path}.top_k=1 with {path}.tail=renormalize has zero loss; use tail=bucket or top_k>=2"
            )
    elif isinstance(config, HindsightConfig):
        require(0 <= config.correct_above_f1 < 1, "correct_above_f1", "in [0, 1)")
        require(config.max_tokens >= 16, "max_tokens", "at least 16")
    elif isinstance(config, SearchConfig):
        require(len(config.retriever_urls) > 0, "retriever_urls", "a list with at least one address")
        for url in config.retriever_urls:
            require(
                url.startswith(("http://", "https://")),
                "retriever_urls",
                "addresses starting with http:// or https://",
            )
        for name in ("top_k", "max_turns", "max_observation_tokens", "max_turn_tokens"):
            require(getattr(config, name) >= 1, name, "at least 1")
        require(config.timeout_s > 0, "timeout_s", "greater than 0")
        require(config.max_loading_s >= 0, "max_loading_s", "at least 0")
        require(config.max_retries >= 0, "max_retries", "at least 0")
        require(config.traces_per_step >= 0, "traces_per_step", "at least 0")
        seed = config.sampling_seed
        require(seed is None or seed >= 0, "sampling_seed", "at least 0, or null")
        rate = config.max_failure_rate
        require(rate is None or 0 <= rate <= 1, "max_failure_rate", "between 0 and 1, or null")
    elif isinstance(config, HealthConfig):
        require(config.window >= 1, "window", "at least 1")
        for name in ("response_length_range", "entropy_range"):
            ends = getattr(config, name)
            ok = ends is None or (len(ends) == 2 and 0 <= ends[0] < 1 < ends[1])
            require(ok, name, "[low, high] with 0 <= low < 1 < high, or null")
        for name in ("min_searches_per_rollout", "max_correct_log_prob_drop"):
            require((getattr(config, name) or 0) >= 0, name, "at least 0, or null")
        change = config.max_searches_change
        require(change is None or change > 1, "max_searches_change", "greater than 1, or null")
        for name in ("max_reward_drop", "max_partial_groups"):
            require(0 <= (getattr(config, name) or 0) <= 1, name, "between 0 and 1, or null")
