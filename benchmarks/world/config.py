"""Training of the reference: the only place its defaults stand."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sd_search_verl.config_base import ConfigModel, Count, Unit


class TrainConfig(ConfigModel):
    """Training in the reference: everything but the method. Names of PPO's terms are verl's."""

    seed: Annotated[int, Unit("seed")] = 0
    """Seed of world, sampling and training."""
    steps: Annotated[Count, Unit("steps")] = 49
    """Training steps."""
    questions: Annotated[Count, Unit("questions")] = 8
    """Questions a step."""
    group: Annotated[int, Field(ge=2), Unit("rollouts")] = 5
    """Rollouts of each question; one alone has no advantage."""
    mini_batches: Annotated[Count, Unit("updates")] = 1
    """Updates a step, each on an equal part of its rollouts."""
    learning_rate: Annotated[float, Field(gt=0), Unit("1 / step")] = 1e-3
    """Learning rate of AdamW."""
    warmup_steps: Annotated[int, Field(ge=0), Unit("steps")] = 5
    """Steps of the learning rate's linear warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    max_grad_norm: Annotated[float, Field(gt=0), Unit("norm")] = 1.0
    """Gradients are clipped to this norm."""
    clip_ratio: Annotated[float, Field(gt=0), Unit("ratio")] = 0.2
    """PPO's clipping range of the probability ratio."""
    clip_ratio_c: Annotated[float, Field(gt=1), Unit("ratio")] = 3.0
    """PPO's second bound, for negative advantages."""
    evaluate_every: Annotated[Count, Unit("steps")] = 7
    """Steps between evaluations on held-out questions; one follows the last step too."""
