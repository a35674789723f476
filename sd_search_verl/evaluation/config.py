"""Options of an evaluation. The agent loop's are the training's own section, and start from the training's values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sd_search_verl import protocol as protocols
from sd_search_verl.config import ConfigError, SearchConfig, from_mapping
from sd_search_verl.errors import UserError


@dataclass(frozen=True)
class EvaluationConfig:
    """How questions are asked. Limits are in tokens of the model's tokenizer."""

    seeds: list[int] = field(default_factory=lambda: [0])
    """Every question is asked once for each; more than one needs a temperature above 0."""
    temperature: float = 0.0
    """0 = greedy."""
    top_p: float = 1.0
    """Nucleus sampling, where the temperature is above 0."""
    sample: int | None = None
    """Questions per set, always the same ones; null = all."""
    max_prompt_tokens: int = 2048
    """A longer prompt loses its start, as in training."""
    max_response_tokens: int = 4096
    """Room for everything after the prompt, observations included."""
    concurrency: int = 128
    """Questions in flight."""
    max_failure_rate: float = 0.01
    """Stop when a larger share of searches failed: the numbers would be the server's, not the model's."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights in vLLM."""
    gpu_memory_utilization: float = 0.9
    """Share of each GPU that vLLM may take."""
    tensor_parallel_size: int = 1
    """GPUs that share the model."""
    chat_template_kwargs: str = "{}"
    """Further arguments of the tokenizer's chat template, as JSON."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """The agent loop."""


@dataclass(frozen=True)
class Settings:
    """A checked config, and the values of the training where they are known."""

    config: EvaluationConfig
    training: EvaluationConfig | None
    """The training's values of everything that the policy sees; None = unknown."""

    def warnings(self) -> list[str]:
        """What the policy sees otherwise than in its training; empty when nothing does."""
        if self.training is None:
            return [
                "the training's config is unknown; give it with --training to compare protocols "
                "(.hydra/config.yaml in the training run)"
            ]
        here, there = seen_by_policy(self.config), seen_by_policy(self.training)
        changed = [name for name in here if here[name] != there[name]]
        return [f"{name} is not the training's: {_short(here[name], there[name])}" for name in changed]


def read_settings(
    training: Path | None, overrides: Sequence[str], retriever_urls: Sequence[str] = ()
) -> Settings:
    """Defaults, then the training's values, then ``overrides`` such as ``temperature=1`` or ``search.top_k=5``.

    Raises:
        ConfigError: an unknown option or a value that is not allowed.
    """
    known = _training_values(training) if training else {}
    try:
        merged = OmegaConf.merge(known, OmegaConf.from_dotlist(list(overrides)))
        values: Any = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"overrides {' '.join(overrides)!r} cannot be read: {error}") from None
    if isinstance(template := values.get("chat_template_kwargs"), dict):
        values["chat_template_kwargs"] = json.dumps(template, sort_keys=True)
    if retriever_urls:
        values["search"] = {**values.get("search", {}), "retriever_urls": list(retriever_urls)}
    config = _checked(values)
    return Settings(config, _checked(known) if training else None)


def find_training_config(model: Path) -> Path | None:
    """The config that Hydra left in the run folder that ``model`` lies in, if it does."""
    for folder in model.resolve().parents[:5]:
        for place in (folder / "hydra" / ".hydra", folder / ".hydra"):
            if (place / "config.yaml").is_file():
                return place / "config.yaml"
    return None


def seen_by_policy(config: EvaluationConfig) -> dict[str, Any]:
    """Every text and limit that shapes what the policy reads and may write: what a comparison must hold fixed."""
    search = config.search
    return {
        **{f"protocol.{name}": text for name, text in asdict(protocols.get(search.protocol)).items()},
        "search.top_k": search.top_k,
        "search.max_turns": search.max_turns,
        "search.max_observation_tokens": search.max_observation_tokens,
        "search.max_turn_tokens": search.max_turn_tokens,
        "max_prompt_tokens": config.max_prompt_tokens,
        "max_response_tokens": config.max_response_tokens,
        "chat_template_kwargs": config.chat_template_kwargs,
    }


def protocol_hash(config: EvaluationConfig) -> str:
    """16 hexadecimal digits that are equal when :func:`seen_by_policy` is."""
    text = json.dumps(seen_by_policy(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _training_values(path: Path) -> dict[str, Any]:
    """What an evaluation shares with the training whose whole Hydra config is at ``path``."""
    if not path.is_file():
        raise UserError(f"--training {path} is missing; give the .hydra/config.yaml of the run")
    whole = OmegaConf.load(path)
    if OmegaConf.select(whole, "search") is None:
        raise ConfigError(f"{path} has no section 'search': it is not a config of an SD-Search training")
    values: dict[str, Any] = {"search": OmegaConf.to_container(whole.search, resolve=True)}
    for name, key in (
        ("max_prompt_tokens", "data.max_prompt_length"),
        ("max_response_tokens", "data.max_response_length"),
    ):
        if (value := OmegaConf.select(whole, key)) is not None:
            values[name] = value
    template = OmegaConf.select(whole, "data.apply_chat_template_kwargs")
    if template:
        values["chat_template_kwargs"] = json.dumps(OmegaConf.to_container(template), sort_keys=True)
    return values


def _checked(values: Mapping[str, Any]) -> EvaluationConfig:
    config = from_mapping(EvaluationConfig, values, "evaluation")

    def require(ok: bool, name: str, rule: str) -> None:
        if not ok:
            raise ConfigError(f"{name}={getattr(config, name)!r} must be {rule}")

    require(len(config.seeds) > 0 and len(set(config.seeds)) == len(config.seeds), "seeds", "distinct seeds")
    require(config.temperature >= 0, "temperature", "at least 0")
    require(
        len(config.seeds) == 1 or config.temperature > 0,
        "seeds",
        "a single seed at temperature 0: greedy decoding gives the same answer for all",
    )
    require(0 < config.top_p <= 1, "top_p", "in (0, 1]")
    require(config.sample is None or config.sample >= 1, "sample", "at least 1, or null")
    for name in ("max_prompt_tokens", "max_response_tokens", "concurrency", "tensor_parallel_size"):
        require(getattr(config, name) >= 1, name, "at least 1")
    require(0 <= config.max_failure_rate <= 1, "max_failure_rate", "between 0 and 1")
    require(0 < config.gpu_memory_utilization <= 1, "gpu_memory_utilization", "in (0, 1]")
    try:
        fine = isinstance(json.loads(config.chat_template_kwargs), dict)
    except json.JSONDecodeError:
        fine = False
    require(fine, "chat_template_kwargs", "a JSON object")
    return config


def _short(here: Any, there: Any) -> str:
    """Both values, or where they are long texts that they differ."""
    texts = f"{here!r} instead of {there!r}"
    return texts if len(texts) < 120 else "the texts differ"
