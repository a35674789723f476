"""Options of an evaluation. The agent loop's are the training's own section, and start from the training's values."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sd_search_verl.cli_options import read_set
from sd_search_verl.config import ConfigError, SearchConfig, read_config
from sd_search_verl.config_base import Affects, ConfigModel, Count, JsonObject, Share, Tokens, Unit, affects
from sd_search_verl.errors import UserError
from sd_search_verl.files import read_yaml
from sd_search_verl.rollout.dialogue import protocol_of


def _distinct(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("must be distinct seeds")
    return seeds


Seeds = Annotated[list[int], Field(min_length=1), AfterValidator(_distinct), Unit("seeds")]
PositiveShare = Annotated[float, Field(gt=0, le=1), Unit("share")]


class EvaluationConfig(ConfigModel):
    """How questions are asked. Limits are in tokens of the model's tokenizer."""

    seeds: Annotated[Seeds, Affects.SAMPLING] = Field(default=[0])
    """Every question is asked once for each; more than one needs a temperature above 0."""
    temperature: Annotated[float, Field(ge=0), Unit("temperature"), Affects.SAMPLING] = 0.0
    """0 = greedy."""
    top_p: Annotated[PositiveShare, Affects.SAMPLING] = 1.0
    """Nucleus sampling, where the temperature is above 0."""
    sample: Annotated[Count | None, Unit("questions"), Affects.SAMPLING] = None
    """Questions per set, always the same ones; null = all."""
    max_prompt_tokens: Tokens = 2048
    """A longer prompt loses its start, as in training."""
    max_response_tokens: Tokens = 4096
    """Room for everything after the prompt, observations included."""
    concurrency: Annotated[Count, Unit("questions"), Affects.OPERATION] = 128
    """Questions in flight."""
    max_failure_rate: Annotated[Share, Affects.OPERATION] = 0.01
    """Stop when a larger share of searches failed: the numbers would be the server's, not the model's."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], Affects.SAMPLING] = "auto"
    """Data type of the weights in vLLM."""
    gpu_memory_utilization: Annotated[PositiveShare, Affects.OPERATION] = 0.9
    """Share of each GPU that vLLM may take."""
    tensor_parallel_size: Annotated[Count, Unit("GPUs"), Affects.OPERATION] = 1
    """GPUs that share the model; the training's number is not taken over."""
    chat_template_kwargs: JsonObject = "{}"
    """Further arguments of the tokenizer's chat template, as JSON."""
    search: SearchConfig = SearchConfig()
    """The agent loop."""

    def template_kwargs(self) -> dict[str, Any]:
        """Return the arguments of the tokenizer's chat template, the protocol's included."""
        return {**json.loads(self.chat_template_kwargs), **protocol_of(self.search).template_kwargs}

    @model_validator(mode="after")
    def _seeds_need_sampling(self) -> Self:
        if len(self.seeds) > 1 and self.temperature == 0:
            raise ValueError(
                f"seeds={self.seeds!r} must be a single seed at temperature 0: greedy decoding gives the same answer "
                "for all. Fix: set temperature above 0, or one seed"
            )
        return self


class ScoreFields(ConfigModel):
    """Names of the fields that ``sd-search score`` reads, each a dotted path."""

    text: str = "response"
    """Field of the trajectory, with or without its prompt."""
    golden: str = "golden_answers"
    """Field of the golden answers: a text, a list of texts, or an object with ``target``."""
    answer: str | None = None
    """Field of an answer already extracted, in place of --text."""
    by: str | None = None
    """Field whose values get a line each, such as the question set."""


@dataclass(frozen=True)
class ResolvedConfig:
    """A checked config, and the values of the training where they are known."""

    config: EvaluationConfig
    training: EvaluationConfig | None
    """The training's values of everything that the policy sees; None = unknown."""
    foreign_tools: str | None = None
    """File of the training's with tools of verl's registry, which an evaluation does not have."""

    def warnings(self) -> list[str]:
        """Return the settings that differ from the policy's training; empty if none does."""
        if self.training is None:
            return [
                "the training's config is unknown; give it with --training to compare protocols "
                "(.hydra/config.yaml in the training run)"
            ]
        here, there = seen_by_policy(self.config), seen_by_policy(self.training)
        changed = [name for name in here if here[name] != there[name]]
        found = [f"{name} is not the training's: {_short(here[name], there[name])}" for name in changed]
        if self.foreign_tools:
            found.append(
                f"the training's tools of {self.foreign_tools} are not shown: an evaluation has none"
            )
        return found


def read_settings(
    training: Path | None, overrides: Sequence[str], retriever_urls: Sequence[str] = ()
) -> ResolvedConfig:
    """Resolve defaults, then the training's values, then ``overrides`` such as ``temperature=1`` or ``search.top_k=5``.

    Raises:
        ConfigError: an unknown option or a value that is not allowed.
    """
    whole = _read_training(training) if training else None
    known = {} if whole is None else _training_values(whole)
    values = read_set(overrides, known)
    if retriever_urls and isinstance(search := values.get("search", {}), dict):
        values["search"] = {**search, "retriever_urls": list(retriever_urls)}
    config = read_config(EvaluationConfig, values, section="")
    if whole is None:
        return ResolvedConfig(config, None)
    return ResolvedConfig(config, read_config(EvaluationConfig, known, section=""), _foreign_tools(whole))


def find_training_config(model: Path) -> Path | None:
    """Return Hydra's config of the training in whose run folder ``model`` is, or None.

    Configs of other programs in the folders above are passed over.

    Raises:
        UserError: the config is another user's, who might have put it there: into /tmp, say.
    """
    for folder in model.resolve().parents[:5]:
        for place in (folder / "hydra" / ".hydra", folder / ".hydra"):
            path = place / "config.yaml"
            if not _is_ours(path):
                continue
            if path.stat().st_uid not in (0, os.getuid()):
                raise UserError(
                    f"{path} is another user's: its retrievers would get your questions and RETRIEVER_API_KEY, and its "
                    f"interpolations may read your environment. Fix: --training {path} if you trust it; else copy the "
                    "model to a folder of your own"
                )
            return path
    return None


def _is_ours(path: Path) -> bool:
    """Return whether a file is a Hydra config with this package's section ``search``."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        whole = OmegaConf.load(path) if path.is_file() else None
        found = isinstance(whole, DictConfig) and OmegaConf.select(whole, "search.retriever_urls") is not None
    except (OSError, UnicodeDecodeError, OmegaConfBaseException, YAMLError):
        return False
    return found


def seen_by_policy(config: EvaluationConfig) -> dict[str, Any]:
    """Return every text and limit that shapes what the policy reads and may write: all fields without a mark.

    The name of the protocol stands for its texts.
    """
    protocol: Any = protocol_of(config.search)
    texts = asdict(protocol)
    # How a family is read is known by its name.
    families = {"families": [config.search.tool_call.family]} if "families" in texts else {}
    search = _search(config, *Affects)
    return {
        **{f"protocol.{name}": text for name, text in {**texts, **families}.items()},
        **{f"search.{name}": value for name, value in search.items() if name != "protocol"},
        **{name: value for name, value in _without(config, *Affects).items() if name != "search"},
    }


def identity(config: EvaluationConfig) -> dict[str, Any]:
    """Return every field that an answer depends on: addresses, time limits and devices are left out."""
    return {**_without(config, Affects.OPERATION), "search": _search(config, Affects.OPERATION)}


def _search(config: EvaluationConfig, *effects: Affects) -> dict[str, Any]:
    """Return the agent loop's fields without any of these marks; those of tool calls only where they are read."""
    found = _without(config.search, *effects)
    if config.search.protocol != "tool_call":
        del found["tool_call"]
    return found


def _without(config: ConfigModel, *effects: Affects) -> dict[str, Any]:
    """Return the fields without any of these marks."""
    return config.model_dump(exclude=set().union(*(affects(type(config), effect) for effect in effects)))


def protocol_hash(config: EvaluationConfig) -> str:
    """Return 16 hexadecimal digits, equal for equal :func:`seen_by_policy`."""
    return digest(seen_by_policy(config))


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits of a JSON value; the order of its names does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _read_training(path: Path) -> Any:
    """Return the Hydra config of a training.

    Raises:
        UserError: no such file, or a config of something else.
    """
    from omegaconf import OmegaConf

    if not path.is_file():
        raise UserError(f"--training {path} is missing; give the .hydra/config.yaml of the run")
    whole = read_yaml(path)
    if OmegaConf.select(whole, "search") is None:
        raise ConfigError(f"{path} has no section 'search': it is not a config of an SD-Search training")
    return whole


def _training_values(whole: Any) -> dict[str, Any]:
    """Return the values that an evaluation shares with the training of a Hydra config."""
    from omegaconf import OmegaConf

    values: dict[str, Any] = {"search": OmegaConf.to_container(whole.search, resolve=True)}
    for name, key in (
        ("max_prompt_tokens", "data.max_prompt_length"),
        ("max_response_tokens", "data.max_response_length"),
    ):
        if (value := OmegaConf.select(whole, key)) is not None:
            values[name] = value
    template = OmegaConf.select(whole, "data.apply_chat_template_kwargs")
    if template:
        values["chat_template_kwargs"] = OmegaConf.to_container(template)
    return values


def _foreign_tools(whole: Any) -> str | None:
    from omegaconf import OmegaConf

    if OmegaConf.select(whole, "search.protocol") != "tool_call":
        return None
    turns = "actor_rollout_ref.rollout.multi_turn"
    paths = (
        OmegaConf.select(whole, f"{turns}.{name}") for name in ("tool_config_path", "function_tool_path")
    )
    return next((str(path) for path in paths if path), None)


def _short(here: Any, there: Any) -> str:
    """Return both values, or for long texts that they differ."""
    texts = f"{here!r} instead of {there!r}"
    return texts if len(texts) < 120 else "the texts differ"
