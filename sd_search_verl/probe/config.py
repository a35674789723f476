"""Options of the probe and the lessons: the only place their defaults stand."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sd_search_verl.config import HindsightConfig, TagProtocolName
from sd_search_verl.config_base import ConfigModel, Count, JsonObject, Seed, Tokens, Unit


class ProbeConfig(ConfigModel):
    """How groups of rollouts are read and scored."""

    groups: Annotated[Count | None, Unit("groups")] = None
    """Groups to score, those with both outcomes first; null = all of the file."""
    size: Annotated[int, Field(ge=2), Unit("rollouts")] = 5
    """Rollouts of a question where the probe makes them."""
    conditions: Literal["all", "needed"] = "all"
    """needed: only the blocks that the four numbers need, in about half of the time."""
    protocol: TagProtocolName = "search_r1"
    """Tags of the rollouts."""
    chat_template_kwargs: JsonObject = "{}"
    """Further arguments of the tokenizer's chat template, as JSON; those of the training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of weights and activations; auto = the model's own. Distributions are compared in fp32."""
    batch_tokens: Tokens = 4096
    """Tokens of a forward, padding included; a longer row goes alone."""
    seed: Seed = 0
    """Of shuffled labels, and of rollouts that the probe makes."""
    hindsight: HindsightConfig = HindsightConfig()
    """The block of the teacher that is judged."""


class LessonsConfig(ConfigModel):
    """How many lessons, and the optimiser."""

    steps: Annotated[Count, Unit("steps")] = 24
    """Updates."""
    lessons: Annotated[int, Field(ge=0), Unit("lessons")] = 8
    """Lessons of an update; 0 = plain turns only, a warm start of the protocol."""
    plain: Annotated[int, Field(ge=0), Unit("turns")] = 4
    """Plain turns of an update."""
    attempts: Annotated[int, Field(ge=2), Unit("rollouts")] = 5
    """Lines of a lesson's block; some queries stand on several."""
    learning_rate: Annotated[float, Field(gt=0), Unit("1 / step")] = 2e-4
    """Peak learning rate of AdamW; a linear warm-up of 4 steps, then a cosine to 5 %."""
    protocol: TagProtocolName = "search_r1"
    """Tags of the rollouts."""
    chat_template_kwargs: JsonObject = "{}"
    """Further arguments of the tokenizer's chat template, as JSON; those of the training."""
    seed: Seed = 0
    """Of everything that is drawn."""
    hindsight: HindsightConfig = HindsightConfig()
    """The block that is taught. Its lines are of no rollout in particular, so there is no own one."""

    @model_validator(mode="after")
    def _no_own_line(self) -> Self:
        for name, only in (("content", "queries"), ("group", "all"), ("own", "shown")):
            if (value := getattr(self.hindsight, name)) != only:
                raise ValueError(
                    f"hindsight.{name}={value} is of a scored rollout, and a lesson has none. "
                    f"Fix: leave it out; the probe and the training take it"
                )
        return self
