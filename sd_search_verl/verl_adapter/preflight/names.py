"""Names that verl looks up late, after models are loaded or in the first step: of functions, loggers and files."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.preflight.files import data_files, is_remote

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"

UNKNOWN = Rule("{option}", "{option}={value} is unknown to verl", "give one of {known}")
NO_OPTIMIZER = Rule(
    f"{_ACTOR}.optim.optimizer",
    f"{_ACTOR}.optim.optimizer={{value}} is not to be had from {_ACTOR}.optim.optimizer_impl={{module}}: {{reason}}",
    f"set {_ACTOR}.optim.optimizer=AdamW and {_ACTOR}.optim.optimizer_impl=torch.optim, or correct the name",
)
NO_FILE = Rule(
    "{option}",
    "{option}={value} does not exist",
    "give the path of a Python file or of YAML, as the option wants it, or null",
)
HOME = Rule(
    "{option}",
    "{option}={value}: neither verl nor, behind the = of an option, the shell makes the home folder of ~",
    "write {whole}",
)
PATTERN = Rule(
    "{option}",
    "{option}={value} holds one of * ? [ ], and verl's reader takes the path for a pattern",
    "rename the folder or file",
)
SLASH = Rule("{option}", "{option}={value} ends with a slash, which verl refuses later", "write {whole}")
NO_WEIGHTS = Rule(
    f"{_ACTOR}.checkpoint.save_contents",
    f"{_ACTOR}.checkpoint.save_contents={{value}} lacks 'model': checkpoints would hold no weights",
    f"set {_ACTOR}.checkpoint.save_contents=[model,optimizer,extra]",
)
NO_RESUME = Rule(
    f"{_ACTOR}.checkpoint.save_contents",
    f"{_ACTOR}.checkpoint.save_contents={{value}} lacks {{missing}}: a run cannot go on from its checkpoints as if "
    "nothing had happened",
    f"set {_ACTOR}.checkpoint.save_contents=[model,optimizer,extra], unless checkpoints are for evaluation only",
    warns=True,
)
UNLOADED = Rule(
    f"{_ACTOR}.checkpoint.load_contents",
    f"{_ACTOR}.checkpoint.load_contents={{value}} lacks 'model': a resumed run would go on with the weights it began "
    "with",
    f"set {_ACTOR}.checkpoint.load_contents=[model,optimizer,extra]",
)
PARTLY_LOADED = Rule(
    f"{_ACTOR}.checkpoint.load_contents",
    f"{_ACTOR}.checkpoint.load_contents={{value}} lacks {{missing}}: a run does not go on from its checkpoints as if "
    "nothing had happened",
    f"leave {_ACTOR}.checkpoint.load_contents out, unless an optimizer is to start anew",
    warns=True,
)
PENALTIES = [
    f"{name}{gradient}"
    for name in ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
    for gradient in ("", "+")
]
"""Of verl's `kl_penalty`; `+` behind one asks for the unbiased gradient."""
FILES = (
    "data.custom_cls.path",
    "data.sampler.class_path",
    "data.tool_config_path",
    "data.function_tool_path",
    "reward.reward_manager.module.path",
    "trainer.v1.sampler.custom_sampler.path",
    f"{_ROLLOUT}.agent.custom_async_server.path",
    f"{_ROLLOUT}.multi_turn.tool_config_path",
    f"{_ROLLOUT}.multi_turn.function_tool_path",
)
MODELS = tuple(f"actor_rollout_ref.model.{name}" for name in ("path", "tokenizer_path", "hf_config_path"))
PATHS = (
    *("data.train_files", "data.val_files", "reward.custom_reward_function.path"),
    *MODELS,
    *(f"trainer.{name}" for name in ("default_local_dir", "rollout_data_dir", "validation_data_dir")),
    "trainer.resume_from_path",
    f"{_ROLLOUT}.agent.agent_loop_config_path",
    *FILES,
)
"""Options with paths that verl takes as they are written."""


def check_names(config: DictConfig) -> Iterator[Finding]:
    """Check that verl will find what the config names."""
    yield from _check_functions(config)
    yield from _check_optimizer(config)
    for option in PATHS:
        for value in _names(OmegaConf.select(config, option)):
            if value.startswith("~"):
                yield HOME.finding(option=option, value=value, whole=Path(value).expanduser())
    for option in ("data.train_files", "data.val_files"):
        for value in data_files(config, option.removeprefix("data.")):
            if not is_remote(value) and {*"*?[]"} & {*value}:
                yield PATTERN.finding(option=option, value=value)
    for option in MODELS:
        if (value := str(OmegaConf.select(config, option))).endswith("/"):
            yield SLASH.finding(option=option, value=value, whole=value.rstrip("/"))
    for option in FILES:
        value = OmegaConf.select(config, option)
        if value and not is_remote(value) and not Path(str(value)).exists():
            yield NO_FILE.finding(option=option, value=value)
    saved, loaded = (OmegaConf.select(config, rule.name) for rule in (NO_WEIGHTS, UNLOADED))
    if config.trainer.save_freq >= 1:
        yield from _check_contents(saved, NO_WEIGHTS, NO_RESUME)
    if loaded != saved:  # what is not saved cannot be loaded, which is said already
        yield from _check_contents(loaded, UNLOADED, PARTLY_LOADED)


def _check_functions(config: DictConfig) -> Iterator[Finding]:
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.rollout_corr_helper import SUPPORTED_ROLLOUT_RS_OPTIONS
    from verl.utils.tracking import Tracking

    known: dict[str, list[str]] = {
        "trainer.logger": ["tracking", *Tracking.supported_backend],
        "algorithm.adv_estimator": [*core_algos.ADV_ESTIMATOR_REGISTRY],
        "algorithm.rollout_correction.rollout_is": ["token", "sequence"],
        "algorithm.rollout_correction.rollout_rs": [*SUPPORTED_ROLLOUT_RS_OPTIONS],
    }
    # A library of the user's may register a loss in the workers.
    if not OmegaConf.select(config, "actor_rollout_ref.model.external_lib"):
        known[f"{_ACTOR}.policy_loss.loss_mode"] = [*core_algos.POLICY_LOSS_REGISTRY]
    if OmegaConf.select(config, f"{_ACTOR}.use_kl_loss"):
        known[f"{_ACTOR}.kl_loss_type"] = PENALTIES
    if OmegaConf.select(config, "algorithm.use_kl_in_reward"):
        known["algorithm.kl_penalty"] = PENALTIES
        known["algorithm.kl_ctrl.type"] = ["fixed", "adaptive"]
    for option, names in known.items():
        for name in _names(OmegaConf.select(config, option)):
            if name not in names:
                yield UNKNOWN.finding(option=option, value=name, known=", ".join(sorted({*names})))


def _names(value: Any) -> list[str]:
    """Return the names in an option: one, several in a list, or several with commas."""
    values = value if isinstance(value, (list, tuple, ListConfig)) else [] if value is None else [value]
    return [name.strip() for item in values for name in str(item).split(",")]


def _check_optimizer(config: DictConfig) -> Iterator[Finding]:
    name, module = (
        OmegaConf.select(config, f"{_ACTOR}.optim.{key}") for key in ("optimizer", "optimizer_impl")
    )
    if not name or not module:
        return
    try:
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        yield NO_OPTIMIZER.finding(value=name, module=module, reason=str(error))


def _check_contents(contents: Any, no_weights: Rule, no_resume: Rule) -> Iterator[Finding]:
    if contents is None:
        return
    value = list(contents)
    missing = [part for part in ("optimizer", "extra") if part not in value]
    if "model" not in value:
        yield no_weights.finding(value=value)
    elif missing:
        yield no_resume.finding(value=value, missing=" and ".join(missing))
