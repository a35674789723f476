"""The reward function: verl loads it only in the reward's processes, where its errors lose rollout after rollout."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.errors import on_one_line
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.rollout.record import ROLLOUT_KEY, to_plain
from sd_search_verl.rollout.types import Prompt, Rollout
from sd_search_verl.scoring import compute_score, golden_answers
from sd_search_verl.verl_adapter.preflight.files import data_files, open_file
from sd_search_verl.verl_adapter.preflight.reward import is_ours
from sd_search_verl.verl_adapter.settings import REWARD

_FUNCTION = "reward.custom_reward_function"
ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")
"""Names of the arguments that verl's reward managers give."""
_FIRST = "the first training question"
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


NO_SCORE = Rule(
    f"{_FUNCTION}.name",
    "{name} of {path} returns {result} for a rollout that {kind}, so every such rollout would be lost",
    "return a finite number, or a dictionary that holds one under 'score'",
)
RAISES = Rule(
    f"{_FUNCTION}.name",
    "{name} of {path} fails for a rollout that {kind}, and every such rollout would be lost: {error}",
    "nothing, if it needs what is not here, such as a server; else correct it",
    warns=True,
)


def check_reward_function(config: DictConfig) -> Iterator[Finding]:
    """Load the reward function as verl does, and call it for two rollouts of the first training question."""
    from verl.trainer.ppo.reward import get_custom_reward_fn

    path, name = (OmegaConf.select(config, f"{_FUNCTION}.{option}") for option in ("path", "name"))
    if not path or (is_ours(path) and name != compute_score.__name__):
        return  # check_reward reports it
    try:
        with _imports_from_here():
            loaded: Any = get_custom_reward_fn(config)
        function, kwargs = loaded.args
    except (Exception, SystemExit) as error:
        cause = error.__cause__ or error
        text = f"{type(cause).__name__}: {on_one_line(cause)}"
        yield NOT_LOADED.finding(path=path, name=name, error=text)
        return
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
        return
    if names == ARGUMENTS and not is_ours(path) and not inspect.iscoroutinefunction(function):
        for kind, arguments in _rollouts(config):
            try:
                with _imports_from_here():
                    result = function(**arguments, **kwargs)
            except Exception as error:
                text = f"{type(error).__name__}: {on_one_line(error)}"
                yield RAISES.finding(path=path, name=name, kind=kind, error=text)
            else:
                if not _has_score(result):
                    yield NO_SCORE.finding(path=path, name=name, kind=kind, result=repr(result)[:200])


@contextmanager
def _imports_from_here() -> Iterator[None]:
    """Import from the working directory too, as `python -m` does and the program sd-search does not."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _rollouts(config: DictConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield verl's arguments for an answered rollout of the first training question, and for one without an answer."""
    try:
        file = open_file(Path(data_files(config, "train_files")[0]))
        ((_, row),) = file.rows(["data_source", "reward_model", "extra_info"], [0])
        truth = row["reward_model"]["ground_truth"]
        right = golden_answers(truth)[0]
    except Exception:
        return  # check_data reports it
    for kind, answer in ((f"answers {_FIRST}", right), (f"does not answer {_FIRST}", None)):
        response = f"<answer> {answer} </answer>" if answer is not None else "I do not know."
        rollout = Rollout(Prompt("question", [], []), answer=answer, response=response, turns=1)
        beside = {"num_turns": 2, "rollout_reward_scores": {}, ROLLOUT_KEY: to_plain(rollout)}
        values = (
            row.get("data_source", "unknown"),
            response,
            truth,
            {**(row.get("extra_info") or {}), **beside},
        )
        yield kind, dict(zip(ARGUMENTS, values, strict=True))


def _has_score(result: Any) -> bool:
    score: Any = result.get("score") if isinstance(result, dict) else result
    try:
        return not isinstance(score, str) and math.isfinite(score)  # numbers, and arrays and tensors of one
    except (TypeError, ValueError):
        return False
