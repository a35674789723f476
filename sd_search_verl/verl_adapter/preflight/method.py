"""Whether verl runs SD-Search at all: its trainer, agent loop and reward, and the options that go with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.config import ConfigError
from sd_search_verl.errors import on_one_line
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.preflight.batch import check_batch
from sd_search_verl.verl_adapter.preflight.correction import READS, check_correction
from sd_search_verl.verl_adapter.preflight.numbers import check_numbers, number
from sd_search_verl.verl_adapter.preflight.objectives import check_objectives
from sd_search_verl.verl_adapter.preflight.reward import check_reward
from sd_search_verl.verl_adapter.preflight.unread import check_unread
from sd_search_verl.verl_adapter.settings import AGENT_LOOP, SECTIONS, TRAINER, TRAINERS

_MODE = "trainer.v1.trainer_mode"
_LOOP = "actor_rollout_ref.rollout.agent.default_agent_loop"
_LOOPS = "actor_rollout_ref.rollout.agent.agent_loop_config_path"
_MODEL = "actor_rollout_ref.model"
_MANAGER = "actor_rollout_ref.rollout.agent.agent_loop_manager_class"
_LAST = "and put `- sd_search: default` below `- ppo_trainer` in a config's defaults"

OTHER_TRAINER = Rule(
    _MODE,
    f"{_MODE}={{value}} is verl's own trainer: it trains without L_SD, whatever sd_search.alpha says",
    f"set {_MODE}={TRAINER} (or {', '.join(list(TRAINERS)[1:])}), {_LAST}",
)
OTHER_LOOP = Rule(
    _LOOP,
    f"{_LOOP}={{value}} does not search: no query, no document, nothing to distil",
    f"set {_LOOP}={AGENT_LOOP}, {_LAST}",
)
REDEFINED_LOOP = Rule(
    _LOOPS,
    f"{_LOOPS}={{value}} defines another {AGENT_LOOP}: {{target}}",
    "give that agent loop another name, or leave the option out",
)
UNREADABLE_LOOPS = Rule(
    _LOOPS, f"{_LOOPS}={{value}} cannot be read: {{error}}", "give a YAML list of agent loops"
)
OTHER_MANAGER = Rule(
    _MANAGER,
    f"{_MANAGER}={{value}} runs rollouts in its own way, which this package does not know",
    f"leave {_MANAGER} out",
)
NOT_GRPO = Rule(
    "algorithm.adv_estimator",
    "algorithm.adv_estimator={value}: the loss is not L_GRPO + alpha L_SD, the first term is another one",
    "set algorithm.adv_estimator=grpo, unless this is meant",
    warns=True,
)
OTHER_LOSS = Rule(
    "actor_rollout_ref.actor.policy_loss.loss_mode",
    "actor_rollout_ref.actor.policy_loss.loss_mode={value}: the loss is not L_GRPO + alpha L_SD, the first term is "
    "another one",
    "set actor_rollout_ref.actor.policy_loss.loss_mode=vanilla, unless this is meant",
    warns=True,
)
ONE_ROLLOUT = Rule(
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.n={n}: a group of one has no baseline for GRPO and nothing in hindsight but itself",
    "set actor_rollout_ref.rollout.n=5, or another number above 1",
)
UNWEIGHTED = Rule(
    "algorithm.rollout_correction.rollout_is",
    f"{_MODE}={{value}} trains on tokens that older weights sampled, without importance weights: the gradient of "
    "L_GRPO is biased",
    "set algorithm.rollout_correction.rollout_is=token, unless this is meant",
    warns=True,
)
NO_RANK = Rule(
    f"{_MODEL}.lora_rank",
    f"{{option}}={{value}} with {_MODEL}.lora_rank=0: verl's FSDP engine makes adapters by lora_rank alone, so whole "
    "weights would be trained, from the base model",
    f"set {_MODEL}.lora_rank to the rank of the adapters, or {{option}} to null or 0",
)
NO_ADAPTERS = Rule(
    f"{_MODEL}.lora.merge",
    f"{_MODE}={{value}} with {_MODEL}.lora_rank={{rank}}: verl sends the base model's weights alone to servers of "
    "their own, so every rollout would be the base model's, however long the adapters are trained",
    f"set {_MODEL}.lora.merge=True, or {_MODE}=sd_search_colocate_async",
)
NEVER_TRACED = Rule(
    "search.traces_per_step",
    "search.traces_per_step={traces} is less than a group (actor_rollout_ref.rollout.n={n}): whole groups are "
    "written, so no trace ever is",
    "set search.traces_per_step to at least {n}, or to 0 if no traces are wanted",
    warns=True,
)


def _unsupported(path: str, reason: str, fix: str) -> Rule:
    return Rule(path, f"{path}={{value}} does not work with SD-Search: {reason}", fix)


_LOGITS = "fused kernels never materialise the logits that are compared"
_PADDING = "verl refuses its logits hook together with static padding"
UNSUPPORTED: dict[Rule, Callable[[Any], bool]] = {
    _unsupported(
        "trainer.use_v1", "the legacy trainer has no plugin registry", "use trainer.use_v1=True"
    ): lambda v: not v,
    _unsupported(
        "distillation.enabled",
        "verl's own distillation uses the same hook on the logits, with another teacher",
        "set distillation.enabled=False",
    ): bool,
    _unsupported("actor_rollout_ref.model.use_fused_kernels", _LOGITS, "set use_fused_kernels=False"): bool,
    _unsupported("actor_rollout_ref.actor.use_fused_kernels", _LOGITS, "set use_fused_kernels=False"): bool,
    _unsupported(
        "actor_rollout_ref.actor.fsdp_config.pad_to_length", _PADDING, "set pad_to_length=False"
    ): bool,
    _unsupported("actor_rollout_ref.actor.pad_to_length", _PADDING, "set pad_to_length=False"): bool,
    _unsupported(
        "actor_rollout_ref.actor.use_prefix_grouper",
        "grouped prefixes change the packing that row positions refer to",
        "set use_prefix_grouper=False",
    ): bool,
    _unsupported(
        "actor_rollout_ref.actor.strategy",
        "the teacher pass is written for the FSDP engines",
        "use actor.strategy=fsdp2 (or fsdp)",
    ): lambda v: v not in ("fsdp", "fsdp2"),
    _unsupported(
        "actor_rollout_ref.rollout.name",
        "turns end at stop strings, which only the vLLM rollout returns with their tokens",
        "use rollout.name=vllm",
    ): lambda v: v != "vllm",
}


def has_sections(config: DictConfig) -> bool:
    """Return whether a config of verl holds a section of ours, so that SD-Search is meant."""
    return "actor_rollout_ref" in config and any(name in config for name in SECTIONS)


def check_method(config: DictConfig) -> Iterator[Finding]:
    """Check that trainer, agent loop and reward are ours and verl's options fit them, from option values alone.

    One check of many parts: :func:`refuse_other_method` makes all of them, where nothing else is checked.
    """
    value = OmegaConf.select(config, _MODE)
    if value not in TRAINERS:
        yield OTHER_TRAINER.finding(value=value)
    if TRAINERS.get(value, "sync") != "sync" and not _weighs(config):
        yield UNWEIGHTED.finding(value=value)
    yield from _check_adapters(config, value)
    yield from _check_loop(config)
    yield from check_reward(config)
    yield from check_unsupported(config)
    yield from check_objectives(config)
    yield from check_numbers(config)
    yield from check_batch(config)
    yield from check_correction(config)
    yield from check_unread(config)
    n, traces = OmegaConf.select(config, ONE_ROLLOUT.name), number(config, NEVER_TRACED.name)
    if not isinstance(n, int) or n < 2:
        yield ONE_ROLLOUT.finding(n=n)
    elif traces and traces < n:
        yield NEVER_TRACED.finding(traces=traces, n=n)
    estimator = OmegaConf.select(config, NOT_GRPO.name)
    if estimator != "grpo" and estimator not in READS:
        yield NOT_GRPO.finding(value=estimator)
    loss = OmegaConf.select(config, OTHER_LOSS.name)
    if loss not in (None, "vanilla"):
        yield OTHER_LOSS.finding(value=loss)


def refuse_other_method(config: DictConfig) -> None:
    """Check that a run of this config is SD-Search.

    Raises:
        ConfigError: another trainer, agent loop or reward, or an option that does not go with them.
    """
    if fatal := [f for f in check_method(config) if f.fatal]:
        raise ConfigError("\n".join(finding.text for finding in fatal))


def check_unsupported(config: DictConfig) -> Iterator[Finding]:
    """Refuse options of verl that do not fit the teacher pass, the loss or the rollouts."""
    for rule, is_bad in UNSUPPORTED.items():
        value = OmegaConf.select(config, rule.name)
        if value is not None and is_bad(value):
            yield rule.finding(value=value)


def _weighs(config: DictConfig) -> bool:
    """Return whether older tokens have importance weights; in bypass mode verl's ratio is one."""
    switches = (UNWEIGHTED.name, "algorithm.rollout_correction.bypass_mode")
    return any(OmegaConf.select(config, switch) for switch in switches)


def _check_adapters(config: DictConfig, mode: str | None) -> Iterator[Finding]:
    """Check that adapters are made, and that rollouts on devices of their own come from them."""

    def value(name: str) -> Any:
        return OmegaConf.select(config, f"{_MODEL}.{name}")

    if rank := value("lora_rank"):
        if TRAINERS.get(mode or "") == "separate_async" and not value("lora.merge"):
            yield NO_ADAPTERS.finding(value=mode, rank=rank)
        return
    for name in ("lora.rank", "lora_adapter_path"):
        if value(name):
            yield NO_RANK.finding(option=f"{_MODEL}.{name}", value=value(name))


def _check_loop(config: DictConfig) -> Iterator[Finding]:
    value = OmegaConf.select(config, _LOOP)
    if value != AGENT_LOOP:
        yield OTHER_LOOP.finding(value=value)
    if manager := OmegaConf.select(config, _MANAGER):
        yield OTHER_MANAGER.finding(value=manager)
    if path := OmegaConf.select(config, _LOOPS):
        try:
            loops: Any = OmegaConf.load(Path(path))
            redefined = [loop for loop in loops if loop.name == AGENT_LOOP]
        except Exception as error:
            yield UNREADABLE_LOOPS.finding(value=path, error=on_one_line(error))
        else:
            for loop in redefined:
                yield REDEFINED_LOOP.finding(value=path, target=loop.get("_target_"))
