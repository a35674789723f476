"""Options of the alarms, the section ``health:``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sd_search_verl.config_base import ConfigModel, Count, RangeAroundOne, Share, Unit


class HealthConfig(ConfigModel):
    """When a run is unhealthy. Warnings do not stop it. Every level is a mean over ``window`` steps; null = no alarm.

    The run is its own reference: its first window, or its best one where that is said. The values are our choice.
    """

    stop_on_non_finite: bool = True
    """Stop the run when a loss is NaN or infinite, after the batch was saved; no checkpoint follows."""
    window: Annotated[Count, Unit("steps")] = 10
    """Steps of a level. No alarm of a level comes before two windows are full, but `equal_rewards` after one."""
    min_searches_per_rollout: Annotated[Annotated[float, Field(ge=0)] | None, Unit("searches")] = 0.1
    """The policy has stopped to search."""
    max_searches_change: Annotated[Annotated[float, Field(gt=1)] | None, Unit("ratio")] = 3.0
    """Searches per rollout above the first window's, times this."""
    response_length_range: Annotated[RangeAroundOne | None, Unit("ratio")] = Field(default=[0.3, 3.0])
    """Mean response length relative to the first window's: shorter or longer is an alarm."""
    entropy_range: Annotated[RangeAroundOne | None, Unit("ratio")] = Field(default=[0.1, 3.0])
    """The policy's entropy relative to the first window's."""
    max_reward_drop: Annotated[Share | None, Unit("share")] = 0.5
    """Share of the best window's reward that is lost."""
    max_correct_log_prob_drop: Annotated[Annotated[float, Field(ge=0)] | None, Unit("nats")] = 0.3
    """Nats per policy token by which the CORRECT rollouts of a window have become less likely than in the best one.
    sd_search.regularizer=llds or sapo holds them."""
    max_copy_share: Annotated[Share | None, Unit("share")] = 0.95
    """Share of the teacher's credit that stays when every label is inverted, in each of the last three measurements
    (sd_search.labels_every): above it the signal is copying. `sd-search probe` says more."""
    min_grad_share: Annotated[Share | None, Unit("share")] = 0.01
    """The method's gradient relative to GRPO's, in each of the last three measurements (sd_search.grad_share_every):
    below it the run is GRPO in all but name."""
    max_partial_groups: Annotated[Share | None, Unit("share")] = 0.0
    """Share of a step's groups that lack rollouts; looked at step by step."""
    max_failed_searches: Annotated[Share | None, Unit("share")] = 0.05
    """Share of a step's searches that failed. ``search.max_failure_rate`` stops the run."""
    max_no_answer: Annotated[Share | None, Unit("share")] = 0.95
    """Share of a step's rollouts that ended in a turn with neither a search nor an answer."""
    max_equal_rewards: Annotated[Share | None, Unit("share")] = 0.98
    """Share of a window's groups, of several rollouts, that all have one reward: nothing for GRPO to learn from, but
    from information gains."""
    max_shortened_blocks: Annotated[Share | None, Unit("share")] = 0.5
    """Share of a step's rollouts whose hindsight block lost rollouts to ``sd_search.hindsight.max_tokens``."""
