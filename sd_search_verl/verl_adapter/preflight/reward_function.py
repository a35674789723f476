"""The reward function: verl loads it only in the reward's processes, where its errors lose rollout after rollout."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.errors import on_one_line
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.scoring import compute_score
from sd_search_verl.verl_adapter.preflight.reward import is_ours
from sd_search_verl.verl_adapter.settings import REWARD

_FUNCTION = "reward.custom_reward_function"
ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")
"""Names of the arguments that verl's reward managers give."""
OF_A_MODEL = ("reward_router_address", "reward_model_tokenizer")
"""Those that they add where a model scores too."""

NOT_LOADED = Rule(
    f"{_FUNCTION}.path",
    f"{_FUNCTION}.name={{name}} cannot be loaded from {_FUNCTION}.path={{path}}, so every rollout would be lost: "
    "{error}",
    f"give the path of a Python file, or pkg:// and a module that every node can import, and in {_FUNCTION}.name a "
    "function that stands in it",
)
ONLY_IMPORTED = Rule(
    f"{_FUNCTION}.name",
    f"{_FUNCTION}.name={{name}} is this package's own reward, which {{path}} only imports",
    f"give the name of the file's function in {_FUNCTION}.name, or {_FUNCTION}.path={REWARD}",
)
OTHER_CALL = Rule(
    f"{_FUNCTION}.name",
    "{name} of {path} does not take verl's call, so every rollout would be lost: {name}({call}): {error}",
    f"write `def {{name}}({', '.join(ARGUMENTS)}=None)`, with a parameter for every key of {_FUNCTION}.reward_kwargs, "
    "or correct that key",
)


def check_reward_function(config: DictConfig) -> Iterator[Finding]:
    """Load the reward function as verl does, and bind the arguments that verl calls it with; it is not called."""
    from verl.trainer.ppo.reward import get_custom_reward_fn

    path, name = (OmegaConf.select(config, f"{_FUNCTION}.{option}") for option in ("path", "name"))
    if not path or (is_ours(path) and name != compute_score.__name__):
        return  # check_reward reports it
    here = os.getcwd()
    # `python -m verl.trainer.main_ppo` imports from the working directory, the program sd-search does not.
    sys.path.insert(0, here)
    try:
        loaded: Any = get_custom_reward_fn(config)
        function, kwargs = loaded.args
    except (Exception, SystemExit) as error:
        cause = error.__cause__ or error
        text = f"{type(cause).__name__}: {on_one_line(cause)}"
        yield NOT_LOADED.finding(path=path, name=name, error=text)
        return
    finally:
        sys.path.remove(here)
    if function is compute_score and not is_ours(path):
        yield ONLY_IMPORTED.finding(path=path, name=name)
    if OmegaConf.select(config, "reward.reward_manager.source") != "register":
        return  # a manager of the user's own calls it in its own way
    names = ARGUMENTS + (OF_A_MODEL if OmegaConf.select(config, "reward.reward_model.enable") else ())
    given = {**dict.fromkeys(names, "..."), **{key: repr(value) for key, value in kwargs.items()}}
    try:
        inspect.signature(function).bind(**given)
    except TypeError as error:
        call = ", ".join(f"{key}={value}" for key, value in given.items())
        yield OTHER_CALL.finding(path=path, name=name, call=call, error=on_one_line(error))
