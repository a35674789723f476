"""What can be known to be wrong with a run before it starts: ``sd-search check`` shows it, the trainer refuses it.

Every check takes verl's composed config and yields findings; each bad one names the field and the fix.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf

from sd_search_verl import protocol as protocols
from sd_search_verl.config import ConfigError, SearchConfig
from sd_search_verl.doctor import Finding, check_retriever

PADDING_SHARE = 0.01
"""Models pad their vocabulary to a round number: Qwen2.5 by 0.3 %. A larger excess is another tokenizer's model."""

BYTES_PER_PARAMETER = 12
"""A checkpoint in fp32: weights and Adam's two moments."""


def compose(arguments: Sequence[str]) -> DictConfig:
    """The config that ``python -m verl.trainer.main_ppo ARGUMENTS`` would run.

    Raises:
        ConfigError: Hydra's own message about what cannot be composed.
    """
    import verl  # noqa: F401  (loads the plugin)
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir, initialize_config_module
    from hydra.errors import HydraException

    name, folder, overrides = "ppo_trainer", None, []
    rest = list(arguments)
    while rest:
        flag, given, value = rest.pop(0).partition("=")
        if flag in ("--config-name", "-cn", "--config-dir", "-cd"):
            value = value if given else rest.pop(0)
            name, folder = (value, folder) if flag in ("--config-name", "-cn") else (name, value)
        elif flag.startswith("hydra."):
            pass  # where Hydra writes; not part of the config
        else:
            overrides.append(flag + given + value)
    where = (
        initialize_config_dir(str(Path(folder).resolve()), version_base=None)
        if folder
        else initialize_config_module("verl.trainer.config", version_base=None)
    )
    if folder:
        overrides.append("hydra.searchpath=[pkg://verl.trainer.config]")
    try:
        with where:
            return hydra_compose(name.removesuffix(".yaml"), overrides=overrides)
    except HydraException as error:
        raise ConfigError(str(error)) from error


def check_run(config: DictConfig) -> list[Finding]:
    """All checks, the slow one (the retriever) last. None of them raises or changes anything."""
    return [
        *check_verl(config),
        *check_keys(config),
        *check_data(config),
        *check_policy(config),
        *check_disk(config),
        *check_retrievers(config),
    ]


def refuse_bad_start(config: DictConfig) -> None:
    """What the trainer checks before it starts: all that would make the run worthless, or end it later.

    Raises:
        ConfigError: with every finding and its fix.
    """
    bad = [f for f in (*check_data(config), *check_policy(config), *check_disk(config)) if not f.ok]
    warnings = [f for f in check_keys(config) if not f.ok]
    if not bad:
        down = [f for f in check_retrievers(config) if not f.ok]
        # The client goes round one that fails, but not round all.
        (bad if len(down) == len(config.search.retriever_urls) else warnings).extend(down)
    for finding in warnings:
        print(f"sd_search_verl: warning: {_message(finding)}", flush=True)
    if bad:
        raise ConfigError("\n".join(map(_message, bad)))


def _message(finding: Finding) -> str:
    return f"{finding.name}: {finding.found}. Fix: {finding.fix}"


def check_verl(config: DictConfig) -> Iterator[Finding]:
    """verl's own start-up checks, and ours on what verl cannot carry."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from sd_search_verl.verl_adapter.settings import (
        read_health,
        read_sd_search,
        read_search,
        refuse_unsupported,
    )

    def validate(config: DictConfig) -> None:
        validate_config(config, need_reference_policy(config), need_critic(config))

    for name, action in {
        "sd_search section": read_sd_search,
        "search section": read_search,
        "health section": read_health,
        "verl's options": refuse_unsupported,
        "verl's own checks": validate,
    }.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # verl prints that all is well
                action(config)
        except Exception as error:
            yield Finding(name, False, str(error).strip(), "change it as the message says")
        else:
            yield Finding(name, True, "accepted")


# Sections whose keys are arguments of something else.
_FREE = {"ray_kwargs.ray_init", "reward.custom_reward_function", "hydra"}


def check_keys(config: DictConfig) -> Iterator[Finding]:
    """Keys that nobody reads: Hydra refuses them on the command line, but not in a config file.

    Plain values at the top, such as ``seed``, are the user's own variables.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        stock = hydra_compose("ppo_trainer", overrides=["+sd_search=default"])
    sections = [str(name) for name in config if isinstance(config._get_node(name), DictConfig)]
    unknown = [*_unknown(OmegaConf.masked_copy(config, sections), stock)]
    for path, known in unknown:
        near = difflib.get_close_matches(path.rsplit(".", 1)[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the keys there are {', '.join(sorted(known))}"
        yield Finding("config key", False, f"{path} is a key that neither verl nor this package reads", hint)
    if not unknown:
        yield Finding("config keys", True, "all known")


def _unknown(config: DictConfig, stock: DictConfig, prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Dotted keys of ``config`` that ``stock`` and its dataclass lack, each with the keys there are beside it."""
    known = {*map(str, stock), *_dataclass_fields(stock.get("_target_"))}
    for key in map(str, config):
        path = f"{prefix}{key}"
        if key not in known:
            yield path, known
        elif key in stock and path not in _FREE:
            ours, theirs = _section(config, key), _section(stock, key)
            # An empty section of verl's takes any key.
            if ours and theirs:
                yield from _unknown(ours, theirs, f"{path}.")


def _section(config: DictConfig, key: str) -> DictConfig | None:
    """The section ``key`` as it is written, or None if it is a value, an interpolation or null."""
    node = config._get_node(key)
    return (
        node
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation()
        else None
    )


def _dataclass_fields(target: str | None) -> set[str]:
    if not target:
        return set()
    module, _, name = target.rpartition(".")
    cls = getattr(importlib.import_module(module), name, None)
    return {field.name for field in fields(cls)} if is_dataclass(cls) else set()


def check_data(config: DictConfig) -> Iterator[Finding]:
    """Every local parquet file: its columns, its number of rows, and the protocol that its prompts speak."""
    rows = 0
    for option in ("train_files", "val_files"):
        for file in _as_list(config.data[option]):
            path = Path(str(file)).expanduser()
            if "://" not in str(file) and path.suffix not in (".json", ".jsonl"):
                count, wrong, fix = _parquet(path, config)
                yield Finding(f"data.{option}", not wrong, wrong or f"{path}: {count} rows", fix)
                rows += count if option == "train_files" else 0
    if 0 < rows < (batch := config.data.train_batch_size):
        found = f"{batch} is more than the {rows} rows of data.train_files: no step would run"
        yield Finding("data.train_batch_size", False, found, "lower it, or add rows")


def _parquet(path: Path, config: DictConfig) -> tuple[int, str, str]:
    """Rows of a file, what is wrong with it, and the fix; nothing wrong is an empty text."""
    import pyarrow.parquet as pq

    if not path.is_file():
        return 0, f"{path} does not exist", "build it with `sd-search data --out DIR`, or give another path"
    try:
        table = pq.ParquetFile(path)
    except Exception as error:
        return 0, f"{path} is not parquet: {error}", "build it with `sd-search data --out DIR`"
    there = table.schema_arrow.names
    wanted = {config.data.prompt_key, config.data.reward_fn_key, "reward_model"}
    if missing := sorted(wanted - set(there)):
        wrong = f"{path} has no column {', '.join(missing)}; it has {', '.join(there)}"
        return 0, wrong, "`sd-search data --own NAME=FILE` makes every column that is needed"
    if other := _other_protocol(table, config):
        ours = config.search.protocol
        wrong = f"the prompts of {path} speak {other}, but search.protocol={ours}"
        return 0, wrong, f"rebuild it with `sd-search data --protocol {ours}`, or set search.protocol={other}"
    return table.metadata.num_rows, "", ""


def _other_protocol(table: Any, config: DictConfig) -> str | None:
    """The protocol whose tag for documents the first prompt names, where that is not the configured one."""
    if not table.metadata.num_rows:
        return None
    batch = next(table.iter_batches(batch_size=1, columns=[config.data.prompt_key]))
    text = json.dumps(batch.to_pylist()[0], default=str)
    ours = config.search.protocol
    names = get_args(get_type_hints(SearchConfig)["protocol"])
    spoken = [name for name in names if protocols.get(name).observation_open in text]
    return spoken[0] if spoken and ours not in spoken else None


def check_policy(config: DictConfig) -> Iterator[Finding]:
    """Model and tokenizer go together, and the tokenizer can render a chat."""
    from transformers import AutoConfig, AutoTokenizer

    model = config.actor_rollout_ref.model
    remote = model.trust_remote_code
    try:
        path = os.path.expanduser(model.path)
        tokenizer = AutoTokenizer.from_pretrained(model.tokenizer_path or path, trust_remote_code=remote)
        policy = AutoConfig.from_pretrained(path, trust_remote_code=remote)
    except Exception as error:
        found = f"{model.path} cannot be read: {str(error).strip().splitlines()[0]}"
        fix = "give a Hugging Face folder or name, with its tokenizer beside it"
        yield Finding("actor_rollout_ref.model.path", False, found, fix)
        return
    if not (model.custom_chat_template or getattr(tokenizer, "chat_template", None)):
        plain = "{% for message in messages %}{{ message.content }}{% endfor %}"
        yield Finding(
            "chat template",
            False,
            f"the tokenizer of {model.path} has no chat template",
            f"set actor_rollout_ref.model.custom_chat_template='{plain}' for a base model, or tokenizer_path to the "
            "tokenizer of the instruct model",
        )
    size, tokens = getattr(policy, "vocab_size", len(tokenizer)), len(tokenizer)
    if size < tokens:
        found = f"{model.path} has {size} embeddings, but its tokenizer makes ids up to {tokens - 1}"
        yield Finding(
            "vocabulary", False, found, "use the model's own tokenizer, or model.resize_token_embeddings"
        )
    elif size > tokens * (1 + PADDING_SHARE):
        found = (
            f"{model.path} has {size} embeddings and its tokenizer {tokens} tokens: rollouts never draw the "
            f"{size - tokens} others, training gives them probability, so the two disagree from the first step"
        )
        fix = f"model.resize_token_embeddings({tokens}) and save it, or use the model's own tokenizer"
        yield Finding("vocabulary", False, found, fix)
    else:
        yield Finding("vocabulary", True, f"{tokens} tokens, {size} embeddings")


def check_disk(config: DictConfig) -> Iterator[Finding]:
    """Room for the checkpoints that the run will keep."""
    folder = Path(str(config.trainer.default_local_dir)).expanduser()
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free / 2**30
    parameters = _parameters(Path(str(config.actor_rollout_ref.model.path)).expanduser())
    steps, every = config.trainer.total_training_steps, config.trainer.save_freq
    if every <= 0 or not parameters:
        needed = 1.0
        what = "logs"
    else:
        kept = config.trainer.max_actor_ckpt_to_keep or (steps // every if steps else 1)
        # One more: the old one goes when the new one is whole.
        each = parameters * BYTES_PER_PARAMETER / 2**30
        needed = each * (kept + 1)
        what = f"{kept} + 1 checkpoints of {each:.1f} GiB"
    found = f"{free:.0f} GiB free at {there}; {what} need {needed:.1f}"
    fix = (
        "free disk space, point trainer.default_local_dir elsewhere, or lower trainer.max_actor_ckpt_to_keep"
    )
    yield Finding("trainer.default_local_dir", free >= needed, found, fix)


def _parameters(model: Path) -> int:
    """Number of parameters of a local folder of safetensors, from their headers; 0 if there is none."""
    total = 0
    for file in model.glob("*.safetensors") if model.is_dir() else ():
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for side in tensor["shape"]:
                    count *= side
                total += count
    return total


def check_retrievers(config: DictConfig) -> Iterator[Finding]:
    """Every retriever answers. One that is loading is waited for; one that is not there, for ``search.timeout_s``."""
    for url in config.search.retriever_urls:
        deadline = time.monotonic() + float(config.search.timeout_s)
        while not (finding := check_retriever(url)).ok and (_loading(url) or time.monotonic() < deadline):
            print(f"waiting for the retriever at {url}: {finding.found}", flush=True)
            time.sleep(2)
        yield finding


def _loading(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url.rsplit('/retrieve', 1)[0]}/ready", timeout=10).close()
    except urllib.error.HTTPError as error:
        return error.code == 503
    except (OSError, ValueError):
        return False
    return False


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, ListConfig)) else [value]
