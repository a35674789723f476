"""Metrics of a step's rollouts: how the policy searches, whether search works, and how groups end."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, get_args

import numpy as np
import torch

from sd_search_verl.config import HindsightConfig, SearchConfig
from sd_search_verl.errors import UserError, without_key
from sd_search_verl.hindsight.block import is_correct
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs
from sd_search_verl.rollout.types import Rollout, Search, Status
from sd_search_verl.rollout.versions import query_versions, version_at
from sd_search_verl.runs.schema import Trace
from sd_search_verl.supported import SUPPORTED
from sd_search_verl.verl_adapter.actor.loss import PREFIX
from sd_search_verl.verl_adapter.trainer.data_plane import StepRollouts


class SearchUnavailableError(UserError):
    """Too large a share of a step's searches failed."""


def rollout_metrics(
    step: StepRollouts, group_size: int, groups: int, config: HindsightConfig, version: int
) -> dict[str, float]:
    """Return all metrics of a step's rollouts.

    Args:
        group_size, groups: as they were asked for.
        version: of the policy before the update.
    """
    return {
        **search_metrics(step.rollouts),
        **group_metrics(step.rollouts, config),
        **health_metrics(step, group_size, groups, config),
        **staleness_metrics(step.rollouts, version),
    }


def search_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Return the step's ``search/*``. Search rates are per executed search, all others per rollout."""
    queries: dict[str, set[str]] = defaultdict(set)
    for rollout in rollouts:
        queries[rollout.prompt.group].update(" ".join(query.lower().split()) for query in rollout.queries)
    searches = [search for rollout in rollouts for search in rollout.searches]
    malformed = {kind: _total(r.malformed[kind] for r in rollouts) for kind in rollouts[0].malformed}
    return {
        "search/searches_per_rollout": len(searches) / len(rollouts),
        "search/distinct_queries_per_group": sum(map(len, queries.values())) / len(queries),
        **_of_searches(searches),
        "search/failures": _total(map(_failed, searches)),
        "search/truncated_observations": _total(r.truncated_observations for r in rollouts),
        "search/truncated_prompts": _total(r.prompt.num_cut > 0 for r in rollouts),
        "search/malformed": sum(malformed.values()),
        **{f"search/malformed/{kind}": count for kind, count in malformed.items()},
        **{f"search/status/{s}": _mean(r.status == s for r in rollouts) for s in get_args(Status)},
        "search/em": _mean(r.em for r in rollouts),
        "search/f1": _mean(r.f1 for r in rollouts),
    }


def _of_searches(searches: Sequence[Search]) -> dict[str, float]:
    """Return the rates and times of searches, left out where there is no search."""
    if not searches:
        return {}
    p50, p99 = np.percentile([search.latency_s for search in searches], [50, 99]).tolist()
    return {
        "search/failure_rate": _mean(map(_failed, searches)),
        "search/gold_in_documents": _mean(search.has_gold for search in searches),
        "search/latency_s_p50": p50,
        "search/latency_s_p99": p99,
    }


def group_metrics(rollouts: Sequence[Rollout], config: HindsightConfig) -> dict[str, float]:
    """Return the shares of groups whose rollouts all have one label: no contrast in the block, no GRPO advantage."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.prompt.group].append(is_correct(rollout, config))
    all_correct = _total(all(labels) for labels in groups.values()) / len(groups)
    all_incorrect = _total(not any(labels) for labels in groups.values()) / len(groups)
    return {
        "sd_search/homogeneous_groups": all_correct + all_incorrect,
        "sd_search/all_correct_groups": all_correct,
        "sd_search/all_incorrect_groups": all_incorrect,
    }


def health_metrics(
    step: StepRollouts, group_size: int, groups: int, config: HindsightConfig
) -> dict[str, float]:
    """Return the metrics that the alarms need and verl does not report.

    health/partial_groups: share of the step's groups with fewer rollouts than ``group_size``; health/missing_rollouts:
    how many are missing; verl trains such groups without a warning. health/equal_rewards: share of the groups of
    several rollouts that all have one reward, which GRPO learns nothing from. health/correct_log_prob: mean log-prob
    of a policy token in CORRECT rollouts, in nats, by the policy before the update; left out where no rollout is
    CORRECT and kept by verl's rollout correction, which sets the mask of those it rejects to 0.
    """
    sizes = Counter(rollout.prompt.group for rollout in step.rollouts)
    whole = sum(size >= group_size for size in sizes.values())
    found = {
        "health/partial_groups": 1 - whole / groups,
        "health/missing_rollouts": float(group_size * groups - sum(sizes.values())),
    }
    rewards: dict[str, list[float | None]] = defaultdict(list)
    for rollout in step.rollouts:
        rewards[rollout.prompt.group].append(rollout.reward)
    if several := [values for values in rewards.values() if len(values) > 1]:
        found["health/equal_rewards"] = _mean(len(set(values)) == 1 for values in several)
    correct = [
        log_probs[torch.tensor(rollout.response_mask, dtype=torch.bool)]
        for rollout, log_probs in zip(step.rollouts, step.log_probs, strict=True)
        if is_correct(rollout, config) and any(rollout.response_mask)
    ]
    if correct:
        found["health/correct_log_prob"] = float(torch.cat(correct).mean())
    return found


def count_replaced_groups(metrics: dict[str, Any], group_size: int, groups: int) -> None:
    """Count the groups that an asynchronous mode lost whole, and replaced, among those that lack rollouts."""
    replaced = metrics.get("training/rollout_failure/evicted_samples", 0)
    if replaced and "health/partial_groups" in metrics:
        lacking = metrics["health/partial_groups"] * groups + replaced
        metrics["health/partial_groups"] = lacking / (groups + replaced)
        metrics["health/missing_rollouts"] += group_size * replaced


def staleness_metrics(rollouts: Sequence[Rollout], version: int) -> dict[str, float]:
    """Return how many versions behind the policy the weights were that sampled the query tokens with mask 1.

    sd_search/stale_query_tokens: share of them from older weights than the policy's. sd_search/mixed_queries: share of
    the queries whose tokens come from more than one version.

    Args:
        version: of the policy that is trained.
    """
    found = [version - sampled for rollout in rollouts for sampled in query_versions(rollout)]
    spans = [
        {version_at(r, j) for j in range(*span)} for r in rollouts for span in r.spans if span[0] < span[1]
    ]
    if not found:
        return {}
    return {
        "sd_search/staleness_mean": _mean(found),
        "sd_search/staleness_max": float(max(found)),
        "sd_search/stale_query_tokens": _mean(staleness > 0 for staleness in found),
        "sd_search/mixed_queries": _mean(len(versions) > 1 for versions in spans),
    }


def jsd_by_staleness(traces: Sequence[Trace], version: int) -> dict[str, float]:
    """Return the mean divergence of the traced query tokens of each staleness, where some token is stale."""
    found: dict[int, list[float]] = defaultdict(list)
    for trace in traces:
        starts = [start for start, _ in trace.versions]
        for (start, _), values in zip(trace.spans, trace.divergence, strict=bool(trace.divergence)):
            for token, value in enumerate(values, start):
                if value is not None and starts:
                    sampled = trace.versions[bisect_right(starts, token) - 1][1]
                    found[version - sampled].append(value)
    if not any(found):
        return {}
    return {f"sd_search/jsd_at_staleness/{age}": _mean(values) for age, values in sorted(found.items())}


def prepared_metrics(inputs: Sequence[TeacherInputs]) -> dict[str, float]:
    """Return the size of the teacher's rows, those behind inverted labels too.

    health/shortened_blocks: share of the rollouts with scored tokens whose block lost rollouts for length.
    """
    rows = [row for item in inputs for row in item.rows]
    flipped = [row for item in inputs for row in item.flipped]
    scored = [item for item in inputs if item.rows]
    return {
        "sd_search/query_tokens": float(sum(len(row.student_positions) for row in rows)),
        "sd_search/teacher_tokens": float(sum(len(row.input_ids) for row in [*rows, *flipped])),
        "sd_search/shortened_blocks": _total(item.num_dropped > 0 for item in scored),
        "sd_search/empty_blocks": _total(item.num_dropped > 0 and not any(item.blocks) for item in scored),
        "health/shortened_blocks": _total(item.num_dropped > 0 for item in scored) / max(len(scored), 1),
    }


def rename_worker_metrics(metrics: dict[str, Any], timing: dict[str, float]) -> None:
    """Strip verl's ``actor/`` from the plugin's worker metrics, and move the teacher's time to the timings."""
    for name in [name for name in metrics if name.startswith(f"actor/{PREFIX}")]:
        metrics[name.removeprefix("actor/")] = metrics.pop(name)
    if (seconds := metrics.pop(f"{PREFIX}teacher_s", None)) is not None:
        timing["sd_search_teacher"] = timing.get("sd_search_teacher", 0.0) + seconds


def require_distilled(inputs: Sequence[TeacherInputs], metrics: Mapping[str, Any]) -> None:
    """Check that the update found a divergence where there were tokens to score.

    Raises:
        RuntimeError: it did not. Then verl's worker passes the plugin's by, and GRPO alone is trained.
    """
    if any(item.rows for item in inputs) and f"{PREFIX}jsd" not in metrics:
        raise RuntimeError(
            f"the update had tokens to score and reported no {PREFIX}jsd: verl {version('verl')} does not call "
            f"sd_search_verl's worker, which is written for verl{SUPPORTED['verl']}"
        )


def check_failure_rate(rollouts: Sequence[Rollout], config: SearchConfig) -> None:
    """Stop the run when too large a share of the step's searches failed.

    Raises:
        SearchUnavailableError: above ``search.max_failure_rate``.
    """
    failed = [_failed(search) for rollout in rollouts for search in rollout.searches]
    if config.max_failure_rate is None or not failed:
        return
    rate, reason = _mean(failed), most_frequent_error(rollouts)
    if rate > config.max_failure_rate:
        servers = ", ".join(map(without_key, config.retriever_urls))
        raise SearchUnavailableError(
            f"{rate:.0%} of this step's {len(failed)} searches failed, more than search.max_failure_rate="
            f"{config.max_failure_rate:.0%}; check the retriever at {servers}. Most often: {reason}"
        )


def most_frequent_error(rollouts: Sequence[Rollout]) -> str:
    """Return why most of the failed searches failed, an empty text where none did."""
    errors = Counter(search.error for rollout in rollouts for search in rollout.searches if search.error)
    return errors.most_common(1)[0][0] if errors else ""


def _failed(search: Search) -> bool:
    return search.error is not None


def _total(values: Iterable[float]) -> float:
    return float(sum(values))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return _total(found) / len(found)
