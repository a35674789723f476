"""The run in five lines: trainer, policy, data, retrievers and method, as the config and its files say."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.schedule import alpha_at
from sd_search_verl.errors import UserError, without_key
from sd_search_verl.protocol.prompt import text_messages
from sd_search_verl.retriever_client.identity import describe, identify
from sd_search_verl.verl_adapter.preflight.files import data_files, is_remote, open_file
from sd_search_verl.verl_adapter.preflight.policy_files import load_model_config, load_tokenizer
from sd_search_verl.verl_adapter.preflight.schedule import Schedule
from sd_search_verl.verl_adapter.settings import read_sd_search, read_search

_QUESTION_LENGTH = 100


def describe_run(config: DictConfig) -> list[str]:
    """Return five lines about the run; what cannot be found out is said to be unknown, with the reason."""
    parts: dict[str, Callable[[DictConfig], str]] = {
        "trainer": _trainer,
        "policy": _policy,
        "data": _data,
        "retriever": _retrievers,
        "method": _method,
    }
    return [f"{name + ':':<11}{_or_unknown(describe, config)}" for name, describe in parts.items()]


def _or_unknown(describe: Callable[[DictConfig], str], config: DictConfig) -> str:
    try:
        return describe(config)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return f"unknown ({lines[0]})"


def _trainer(config: DictConfig) -> str:
    reward, rollout = config.reward.custom_reward_function, config.actor_rollout_ref.rollout
    metric = (
        f", metric {reward.reward_kwargs.metric}" if OmegaConf.select(reward, "reward_kwargs.metric") else ""
    )
    named = f"{reward.path}:{reward.name}{metric}" if reward.path else "verl's, by data_source"
    return (
        f"{config.trainer.v1.trainer_mode} on {config.trainer.nnodes} x {config.trainer.n_gpus_per_node} "
        f"{config.trainer.device}, agent loop {rollout.agent.default_agent_loop}, reward {named}"
    )


def _policy(config: DictConfig) -> str:
    model = config.actor_rollout_ref.model
    policy, tokenizer = load_model_config(config), load_tokenizer(config)
    kind = ", ".join(policy.architectures or [policy.model_type])
    adapter = f", LoRA of rank {model.lora_rank}" if model.get("lora_rank") else ""
    return f"{model.path} ({kind}{adapter}), tokenizer {_family(tokenizer)}, {len(tokenizer)} tokens"


def _family(tokenizer: Any) -> str:
    """Return the tokenizer's class, model and treatment of bytes."""
    name, backend = type(tokenizer).__name__, getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return name
    described = json.loads(backend.to_str())
    model, decoder = described["model"], json.dumps(described.get("decoder"))
    level = "byte-level " if "ByteLevel" in decoder else ""
    fallback = " with byte fallback" if model.get("byte_fallback") or "ByteFallback" in decoder else ""
    return f"{name} ({level}{model['type']}{fallback})"


def _data(config: DictConfig) -> str:
    train, validation = (_num_rows(config, option) for option in ("train_files", "val_files"))
    first = data_files(config, "train_files")[0]
    file = open_file(Path(first))
    _, row = next(file.rows([config.data.prompt_key, "extra_info"], [0]))
    question = (row.get("extra_info") or {}).get("question")
    shown = str(question or text_messages(row[config.data.prompt_key])[-1]["content"].strip())
    shown = shown if len(shown) <= _QUESTION_LENGTH else f"...{shown[-_QUESTION_LENGTH:]}"
    return (
        f"{train} rows to train on, {validation} to validate; the first question: {' '.join(shown.split())!r}"
    )


def _num_rows(config: DictConfig, option: str) -> str:
    files = data_files(config, option)
    local = sum(open_file(Path(file)).num_rows for file in files if not is_remote(file))
    remote = sum(map(is_remote, files))
    return f"{local}" + (f" and those of {remote} remote files" if remote else "")


def _retrievers(config: DictConfig) -> str:
    search = read_search(config)
    servers = "; ".join(f"{without_key(url)} {_identity(url)}" for url in search.retriever_urls)
    return f"{search.top_k} documents a query, {servers}"


def _identity(url: str) -> str:
    """Return what a server states of its index on one line."""
    try:
        return describe(identify([url]))
    except UserError as error:
        return f"(states no identity: {error})"


SWITCHES = ("use", "schedule", "teacher", "gate", "information_gain", "regularizer")
"""Options of the method that name another one of the family."""
_DEFAULT = SDSearchConfig()


def _method(config: DictConfig) -> str:
    method, steps = read_sd_search(config), _steps(config)
    grpo, n = f"L_{str(config.algorithm.adv_estimator).upper()}", config.actor_rollout_ref.rollout.n
    begin = method.warmup_steps + 1
    total = "an unknown number of" if steps is None else str(steps)
    how = f"({method.divergence}, {method.hindsight.content} block)"
    if method.alpha == 0:
        trained = f"{grpo} + no L_SD (sd_search.alpha=0)"
    elif steps is not None and begin > steps:
        trained = (
            f"{grpo} + no L_SD (sd_search.warmup_steps={method.warmup_steps} is not over before the end)"
        )
    elif method.use == "advantage":
        trained = f"{grpo} + no L_SD, advantages scaled with alpha {method.alpha} from step {begin}"
    elif method.schedule == "stages":
        trained = f"{_stages(method, grpo, steps or sys.maxsize)} {how}"
    else:
        trained = f"{grpo} + {method.alpha} L_SD from step {begin} {how}"
    if method.alpha and method.schedule == "cosine" and steps is not None:
        trained += f", alpha {alpha_at(steps, method):.2g} in step {steps},"
    switches = {name: getattr(method, name) for name in SWITCHES}
    changed = [f"{name}={value}" for name, value in switches.items() if value != getattr(_DEFAULT, name)]
    trained += f" with {', '.join(changed)}" if changed else ""
    return f"{trained}; groups of {n}, {total} steps of {config.data.train_batch_size}"


def _stages(method: SDSearchConfig, grpo: str, steps: int) -> str:
    """Return what each stage trains, to the end of the first round of them or of the run."""
    begin, last = method.warmup_steps + 1, method.warmup_steps + method.distil_steps
    parts = [f"{grpo} to step {method.warmup_steps}"] if method.warmup_steps else []
    parts.append(f"{method.alpha} L_SD alone from step {begin} to {min(last, steps)}")
    if last < steps:
        again = last + (method.rl_steps or steps)
        parts.append(f"{grpo} alone to {f'step {again}, and so on in turns' if again < steps else 'the end'}")
    return ", then ".join(parts)


def _steps(config: DictConfig) -> int | None:
    files = data_files(config, "train_files")
    local = [Path(file) for file in files if not is_remote(file)]
    known = len(local) == len(files) and all(path.is_file() for path in local)
    return Schedule.of(config, sum(open_file(path).num_rows for path in local) if known else None).total
