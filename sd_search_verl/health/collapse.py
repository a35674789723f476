"""Alarms of a collapsing run, from its metrics so far.

Known ways in which search agents collapse: searches per rollout fall to zero or grow without bound, responses shrink or
grow, entropy vanishes or explodes, reward falls, and the likelihood of CORRECT rollouts falls before reward does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sd_search_verl.health.config import HealthConfig

SEARCHES = "search/searches_per_rollout"
LENGTH = "response_length/mean"
ENTROPY = "actor/entropy"
REWARD = "critic/score/mean"
CORRECT_LOG_PROB = "health/correct_log_prob"
PARTIAL_GROUPS = "health/partial_groups"
FAILURE_RATE = "search/failure_rate"
NO_ANSWER = "search/status/no_answer"
EQUAL_REWARDS = "health/equal_rewards"
SHORTENED_BLOCKS = "health/shortened_blocks"
GRAD_SHARE = "sd_search/grad_share"
COPY_SHARE = "sd_search/copy_share"

WATCHED = (
    SEARCHES,
    LENGTH,
    ENTROPY,
    REWARD,
    CORRECT_LOG_PROB,
    PARTIAL_GROUPS,
    FAILURE_RATE,
    NO_ANSWER,
    EQUAL_REWARDS,
    SHORTENED_BLOCKS,
    GRAD_SHARE,
    COPY_SHARE,
)
"""The metrics that :func:`alarms` reads."""

NAMES = (
    "partial_groups",
    "failed_searches",
    "no_answer",
    "equal_rewards",
    "shortened_blocks",
    "searches",
    "response_length",
    "entropy",
    "reward",
    "correct_log_prob",
    "grad_share",
    "copying",
)


@dataclass(frozen=True)
class Alarm:
    """One alarm; ``name`` is one of :data:`NAMES`."""

    name: str
    text: str


def alarms(history: Sequence[Mapping[str, float]], config: HealthConfig) -> list[Alarm]:
    """Return the alarms of the last step.

    Args:
        history: metrics of the steps so far, in order; a step may lack some.
        config: thresholds.
    """
    if not history:
        return []
    return [
        *_of_last_step(history, config),
        *_of_equal_rewards(history, config),
        *_of_grad_share(history, config),
        *_of_copy_share(history, config),
        *_of_levels(history, config),
    ]


def levels(history: Sequence[Mapping[str, float]], metric: str, window: int) -> list[float]:
    """Return the mean of ``metric`` over every ``window`` neighbouring steps that have it, oldest first."""
    values = [row[metric] for row in history if math.isfinite(row.get(metric, math.nan))]
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[end] - sums[end - window]) / window for end in range(window, len(sums))]


def _of_last_step(history: Sequence[Mapping[str, float]], config: HealthConfig) -> Iterator[Alarm]:
    share, allowed = history[-1].get(PARTIAL_GROUPS, 0.0), config.max_partial_groups
    if allowed is not None and share > allowed:
        yield Alarm(
            "partial_groups",
            f"{share:.0%} of the groups lack rollouts, more than health.max_partial_groups={allowed:.0%}; "
            "verl trains them as they are. Look for 'Error in _run_prompt' in the log",
        )
    share, allowed = history[-1].get(FAILURE_RATE, 0.0), config.max_failed_searches
    if allowed is not None and share > allowed:
        yield Alarm(
            "failed_searches",
            f"{share:.0%} of the searches failed, more than health.max_failed_searches={allowed:.0%}; the policy "
            "learns from their notices. The log says why; search.max_failure_rate stops such a run",
        )
    share, allowed = history[-1].get(NO_ANSWER, 0.0), config.max_no_answer
    if allowed is not None and share > allowed:
        yield Alarm(
            "no_answer",
            f"{share:.0%} of the rollouts ended in a turn with neither a search nor an answer, more than "
            f"health.max_no_answer={allowed:.0%}: the policy does not write as search.protocol asks it to, and learns "
            "nothing from rewards of 0. Its turns are in traces.jsonl; another protocol or a supervised start helps",
        )
    share, allowed = history[-1].get(SHORTENED_BLOCKS, 0.0), config.max_shortened_blocks
    if allowed is not None and share > allowed:
        yield Alarm(
            "shortened_blocks",
            f"{share:.0%} of the hindsight blocks lost rollouts, more than health.max_shortened_blocks={allowed:.0%}; "
            "an empty block makes the teacher equal to the student. Raise sd_search.hindsight.max_tokens",
        )


def _of_equal_rewards(history: Sequence[Mapping[str, float]], config: HealthConfig) -> Iterator[Alarm]:
    found, high = levels(history, EQUAL_REWARDS, config.window), config.max_equal_rewards
    if high is not None and found and found[-1] > high:
        reward = levels(history, REWARD, config.window)
        yield Alarm(
            "equal_rewards",
            f"in {found[-1]:.0%} of the groups all rollouts have one reward, more than health.max_equal_rewards="
            f"{high:.0%}: an advantage within the group, as GRPO's, is 0 there"
            + (f"; reward {reward[-1]:.3g}" if reward else "")
            + ". Where it is low, compare answers and golden answers in traces.jsonl: a form that the reward does not "
            "take, or questions too hard for this policy; where it is high, the questions are too easy",
        )


def _of_grad_share(history: Sequence[Mapping[str, float]], config: HealthConfig) -> Iterator[Alarm]:
    last = [row[GRAD_SHARE] for row in history if GRAD_SHARE in row][-3:]
    low = config.min_grad_share
    if low is not None and len(last) == 3 and max(last) < low:
        yield Alarm(
            "grad_share",
            f"alpha * L_SD has {last[-1]:.2%} of GRPO's gradient, below {low:.2%} in three measurements: the run is "
            "GRPO in all but name. docs/method.md says how to choose sd_search.alpha",
        )


def _of_copy_share(history: Sequence[Mapping[str, float]], config: HealthConfig) -> Iterator[Alarm]:
    last = [row[COPY_SHARE] for row in history if COPY_SHARE in row][-3:]
    high = config.max_copy_share
    if high is not None and len(last) == 3 and min(last) > high:
        yield Alarm(
            "copying",
            f"{last[-1]:.1%} of the teacher's credit stays when every label is inverted, above {high:.0%} in three "
            "measurements: the policy does not read the block, it copies. docs/probe.md says what helps",
        )


def _of_levels(history: Sequence[Mapping[str, float]], config: HealthConfig) -> Iterator[Alarm]:
    def level(metric: str) -> list[float]:
        found = levels(history, metric, config.window)
        # Before this the latest window still overlaps the reference window, which is the first.
        return found if len(found) > config.window else []

    searches = level(SEARCHES)
    if searches:
        low, high = config.min_searches_per_rollout, config.max_searches_change
        if low is not None and searches[-1] < low:
            yield Alarm("searches", f"{searches[-1]:.3g} searches per rollout, below {low:g}")
        if high is not None and searches[-1] > high * searches[0]:
            change = f"{searches[-1]:.3g} searches per rollout, first {searches[0]:.3g}"
            yield Alarm("searches", f"{change}, above {high:g} x")
    for name, metric, ends in (
        ("response_length", LENGTH, config.response_length_range),
        ("entropy", ENTROPY, config.entropy_range),
    ):
        found = level(metric)
        if ends is not None and found and not ends[0] * found[0] <= found[-1] <= ends[1] * found[0]:
            change = f"{metric} {found[-1]:.3g}, first {found[0]:.3g}"
            yield Alarm(name, f"{change}, outside {ends[0]:g} to {ends[1]:g} x")
    rewards = level(REWARD)
    if rewards and config.max_reward_drop is not None:
        best = max(rewards)
        if best > 0 and rewards[-1] < (1 - config.max_reward_drop) * best:
            yield Alarm(
                "reward", f"reward {rewards[-1]:.3g}, best {best:.3g}: {1 - rewards[-1] / best:.0%} lost"
            )
    likely = level(CORRECT_LOG_PROB)
    if likely and config.max_correct_log_prob_drop is not None:
        drop = max(likely) - likely[-1]
        if drop > config.max_correct_log_prob_drop:
            yield Alarm(
                "correct_log_prob",
                f"CORRECT rollouts have lost {drop:.3g} nats a token ({max(likely):.3g} to {likely[-1]:.3g}); "
                "sd_search.regularizer=llds or sapo holds them",
            )
