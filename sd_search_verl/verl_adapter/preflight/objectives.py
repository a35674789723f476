"""Whether verl's options leave the switches of ``objectives/`` something to do, and can carry them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.preflight.numbers import number

_ACTOR = "actor_rollout_ref.actor"

ONE_UPDATE = Rule(
    "sd_search.regularizer",
    "sd_search.regularizer={value} penalises tokens that an earlier update of the step made less likely, and a step "
    f"has one update: {_ACTOR}.ppo_mini_batch_size={{mini}}, data.train_batch_size={{batch}}, {_ACTOR}.ppo_epochs=1",
    f"lower {_ACTOR}.ppo_mini_batch_size, or set sd_search.regularizer=none",
)
WHOLE_WEIGHTS = Rule(
    "sd_search.teacher",
    "sd_search.teacher=ema puts other weights in place for the teacher's forward; {option}={value} keeps weights that "
    "were gathered before",
    "set {option}={fix}, or sd_search.teacher=live",
)
ONE_QUESTION = Rule(
    "sd_search.information_gain",
    "sd_search.information_gain={value} compares with documents of other questions; data.train_batch_size=1 has none",
    "set data.train_batch_size to at least 2, or sd_search.information_gain=0",
)
SMALL_FACTOR = Rule(
    "sd_search.alpha",
    "sd_search.alpha={value} with sd_search.use=advantage changes an advantage by {change} at most: GRPO in all "
    "but name",
    "set sd_search.alpha=0.5, which changes it by half of sd_search.factor_bound={bound} at most",
    warns=True,
)
REJECTED_TOKENS = Rule(
    "algorithm.rollout_correction.rollout_rs",
    "algorithm.rollout_correction.rollout_rs={rejection} takes tokens out of the response mask, in which {switch} "
    "finds turns and documents: a rejected token would look like one",
    "set algorithm.rollout_correction.rollout_rs=null, or leave {switch} out",
)


def check_objectives(config: DictConfig) -> Iterator[Finding]:
    """Check the switches of ``objectives/`` against verl's options."""
    value = partial(OmegaConf.select, config)
    regularizer, batch = value(ONE_UPDATE.name, default="none"), number(config, "data.train_batch_size")
    mini, epochs = number(config, f"{_ACTOR}.ppo_mini_batch_size"), value(f"{_ACTOR}.ppo_epochs")
    recomputed = not value("algorithm.rollout_correction.bypass_mode")
    if regularizer != "none" and epochs == 1 and batch and mini and mini >= batch and recomputed:
        yield ONE_UPDATE.finding(value=regularizer, mini=mini, batch=batch)
    if value(WHOLE_WEIGHTS.name) == "ema":
        for option, bad, fix in (
            (f"{_ACTOR}.strategy", "fsdp", "fsdp2"),
            (f"{_ACTOR}.fsdp_config.reshard_after_forward", False, "True"),
        ):
            if value(option) == bad:
                yield WHOLE_WEIGHTS.finding(option=option, value=bad, fix=fix)
    if value(ONE_QUESTION.name) and batch == 1:
        yield ONE_QUESTION.finding(value=value(ONE_QUESTION.name))
    if rejection := value(REJECTED_TOKENS.name):
        for name, plain in (("information_gain", 0), ("use", "loss"), ("regularizer", "none")):
            if (found := value(f"sd_search.{name}", default=plain)) not in (plain, "llds_response"):
                yield REJECTED_TOKENS.finding(rejection=rejection, switch=f"sd_search.{name}={found}")
    alpha, bound = number(config, SMALL_FACTOR.name), number(config, "sd_search.factor_bound")
    if value("sd_search.use") == "advantage" and alpha and bound and alpha * bound < 0.01:
        yield SMALL_FACTOR.finding(value=alpha, change=f"{alpha * bound:.2%}", bound=bound)
