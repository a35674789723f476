"""Options that verl accepts, and its V1 trainer, its agent loop or its FSDP engine never reads, or reads otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.finding import Finding, Rule

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
_TURNS = f"{_ROLLOUT}.multi_turn"
_VALIDATION = f"{_ROLLOUT}.val_kwargs"

UNREAD_GRAD_CLIP = Rule(
    f"{_ACTOR}.grad_clip",
    f"{_ACTOR}.grad_clip={{value}} changes nothing: verl clips by {_ACTOR}.optim.clip_grad={{read}}",
    f"set {_ACTOR}.optim.clip_grad={{value}}",
    warns=True,
)
UNREAD_VALIDATION = Rule(
    f"{_VALIDATION}.do_sample",
    f"{_VALIDATION}.do_sample={{value}} changes nothing: verl's agent loop validates at "
    f"{_VALIDATION}.temperature={{temperature}}, {{how}}",
    f"set {_VALIDATION}.temperature to what is meant, above 0 to sample and 0 not to, and do_sample accordingly",
    warns=True,
)


def _unread(option: str, instead: str, fix: str) -> Rule:
    return Rule(option, f"{option}={{value}} changes nothing: {instead}", fix, warns=True)


UNREAD_PF_PPO = _unread(
    "algorithm.use_pf_ppo", "verl reweights so with adv_estimator=gae only", "set algorithm.use_pf_ppo=False"
)
_SETS = "verl's reward managers and validation read the column data_source"
_OURS = "the agent loop sd_search_agent has options of its own"
UNREAD: dict[Rule, tuple[Any, ...]] = {
    _unread("trainer.balance_batch", "verl's V1 trainer balances always", "leave it out"): (True, None),
    _unread("data.reward_fn_key", _SETS, "give the column that name"): ("data_source", None),
    _unread(
        "trainer.esi_redundant_time",
        "verl's V1 trainer saves no checkpoint before a machine's time is up",
        "set trainer.save_freq to so few steps that the loss of them can be borne",
    ): (0, None),
    _unread(
        f"{_ROLLOUT}.over_sample_rate",
        "verl's V1 trainer draws rollout.n rollouts of every question",
        "leave it out",
    ): (0, None),
    _unread(
        f"{_ROLLOUT}.do_sample",
        f"verl's agent loop samples rollouts at {_ROLLOUT}.temperature",
        f"leave it out; {_VALIDATION}.temperature is that of the validation",
    ): (True, None),
    _unread(
        f"{_ROLLOUT}.repetition_penalty", "verl's agent loop draws rollouts without one", "leave it out"
    ): (1, None),
    _unread(
        "actor_rollout_ref.model.mtp.enable_train",
        "verl's FSDP engine has no layers that predict further tokens",
        "set actor_rollout_ref.model.mtp.enable_train=False",
    ): (False, None),
    _unread(
        f"{_ROLLOUT}.moe_load_balance_metrics_interval",
        "the agent loop sd_search_agent does not hand on which experts were chosen",
        "leave it out",
    ): (0, None),
    _unread(f"{_TURNS}.max_assistant_turns", _OURS, "set search.max_turns"): (None,),
    _unread(f"{_TURNS}.max_user_turns", _OURS, "set search.max_turns"): (None,),
    _unread(f"{_TURNS}.max_tool_response_length", _OURS, "set search.max_observation_tokens"): (256, None),
    _unread(f"{_TURNS}.max_parallel_calls", _OURS, "set search.tool_call.parallel"): (1, None),
}
"""Values of each that promise nothing: verl's defaults."""

NOT_SAVED = Rule(
    "algorithm.kl_ctrl.type",
    "algorithm.kl_ctrl.type=adaptive: verl saves the coefficient in no checkpoint, so a resumed run begins with "
    "algorithm.kl_ctrl.kl_coef={start} again",
    "set algorithm.kl_ctrl.type=fixed, unless the run will not be resumed",
    warns=True,
)
RECORDED = Rule(
    "skip.rollout_tq.enable",
    "skip.rollout_tq.enable=True takes the rollouts of its steps {steps} from {folder} once they are there, whatever "
    "the policy has become",
    "set skip.rollout_tq.enable=False, unless recorded rollouts are meant",
    warns=True,
)


def _broken(option: str, what: str, fix: str) -> Rule:
    return Rule(option, f"{option}={{value}}: {what}", fix)


NO_COPY = _broken(
    "trainer.default_hdfs_dir",
    "no checkpoint is copied there, verl's FSDP engine does not read it",
    "set trainer.default_hdfs_dir=null, and trainer.default_local_dir to a folder that outlives the machine",
)
NO_TRACKER = _broken(
    f"{_ACTOR}.checkpoint.async_save",
    "verl's FSDP engine saves at once all the same, but the trainer leaves out latest_checkpointed_iteration.txt, "
    "by which a run goes on from its last checkpoint",
    f"set {_ACTOR}.checkpoint.async_save=False",
)
NO_END = _broken(
    f"{_ROLLOUT}.ignore_eos",
    "vLLM would not end a turn at its end token, so the policy is trained on what it writes behind it",
    f"set {_ROLLOUT}.ignore_eos=False",
)
ALIKE = _broken(
    f"{_ROLLOUT}.full_determinism",
    "verl gives every request of a server the same seed, so all rollouts of a question on one server would be alike "
    "and leave no advantage",
    "set search.sampling_seed to a number, which gives every turn a seed of its own, or full_determinism=False",
)
NO_TOOLS = Rule(
    "{option}",
    "{option}={value} with search.protocol={protocol}: the policy is not shown these tools and cannot call them",
    "set search.protocol=tool_call, or {option}=null",
)


def check_unread(config: DictConfig) -> Iterator[Finding]:
    """Check for values that promise what does not happen."""
    value = partial(OmegaConf.select, config)
    clip, read = value(UNREAD_GRAD_CLIP.name), value(f"{_ACTOR}.optim.grad_clip")
    read = value(f"{_ACTOR}.optim.clip_grad") if read is None else read  # verl's older name comes first
    if clip not in (None, 1.0, read):  # 1.0 is verl's default
        yield UNREAD_GRAD_CLIP.finding(value=clip, read=read)
    sampled, temperature = value(UNREAD_VALIDATION.name), value(f"{_VALIDATION}.temperature")
    if isinstance(temperature, (int, float)) and bool(sampled) != (temperature > 0):
        greedily = "greedily, so that several rollouts of a question are alike"
        how = "which samples" if temperature > 0 else greedily
        yield UNREAD_VALIDATION.finding(value=sampled, temperature=temperature, how=how)
    for rule, harmless in UNREAD.items():
        if value(rule.name) not in harmless:
            yield rule.finding(value=value(rule.name))
    if value(UNREAD_PF_PPO.name) and value("algorithm.adv_estimator") != "gae":
        yield UNREAD_PF_PPO.finding(value=True)
    if value(NOT_SAVED.name) == "adaptive" and value("algorithm.use_kl_in_reward"):
        yield NOT_SAVED.finding(start=value("algorithm.kl_ctrl.kl_coef"))
    if value(RECORDED.name):
        steps, folder = value("skip.rollout_tq.steps"), value("skip.rollout_tq.dump_dir")
        yield RECORDED.finding(steps=steps, folder=folder)
    for rule in (NO_COPY, NO_TRACKER, NO_END):
        if value(rule.name):
            yield rule.finding(value=value(rule.name))
    if value(ALIKE.name) and value("search.sampling_seed") is None:
        yield ALIKE.finding(value=True)
    protocol = value("search.protocol")
    for option in (f"{_TURNS}.tool_config_path", f"{_TURNS}.function_tool_path"):
        if value(option) and protocol != "tool_call":
            yield NO_TOOLS.finding(option=option, value=value(option), protocol=protocol)
