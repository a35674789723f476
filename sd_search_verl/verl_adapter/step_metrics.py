"""The step's search metrics, from the agent loop's records: how the policy searches, and whether search works."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sd_search_verl.config import HindsightConfig, SearchConfig
from sd_search_verl.errors import UserError
from sd_search_verl.hindsight.outcome import is_correct
from sd_search_verl.hindsight.prepare import FinishedRollout, TeacherInputs
from sd_search_verl.verl_adapter.data_plane import StepRollouts


class SearchUnavailableError(UserError):
    """Too large a share of a step's searches failed."""


def search_metrics(
    rollouts: Sequence[FinishedRollout], records: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """``search/*`` of one step. Shares are over executed searches where they speak of searches, else over rollouts."""
    groups: dict[str, list[str]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.group] += [" ".join(query.lower().split()) for query in rollout.queries]
    latencies = [latency for record in records for latency in record["latencies_s"]]
    searches = len(latencies)
    kinds = {
        kind: _total(record["malformed"][kind] for record in records) for kind in records[0]["malformed"]
    }
    p50, p99 = np.percentile(latencies, [50, 99]).tolist() if latencies else (0.0, 0.0)
    return {
        "search/searches_per_rollout": searches / len(records),
        "search/distinct_queries_per_group": sum(len(set(queries)) for queries in groups.values())
        / len(groups),
        "search/gold_in_documents": _total(sum(r["gold_in_documents"]) for r in records) / max(searches, 1),
        "search/failures": _total(r["failures"] for r in records),
        "search/latency_s_p50": p50,
        "search/latency_s_p99": p99,
        "search/truncated_observations": _total(r["truncated_observations"] for r in records),
        "search/truncated_prompts": _total(r["truncated_prompt"] for r in records),
        "search/malformed": sum(kinds.values()),
        **{f"search/malformed/{kind}": count for kind, count in kinds.items()},
        **{f"search/status/{s}": _total(r["status"] == s for r in records) / len(records) for s in _STATUSES},
        "search/em": _total(r["em"] for r in records) / len(records),
        "search/f1": _total(r["f1"] for r in records) / len(records),
    }


_STATUSES = ("answered", "no_answer", "turn_limit", "context_overflow")


def group_metrics(rollouts: Sequence[FinishedRollout], config: HindsightConfig) -> dict[str, float]:
    """Shares of groups whose rollouts all end alike: no contrast in the block, no advantage in GRPO."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.group].append(is_correct(rollout.f1, config))
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
    """What alarms are made of and verl does not report.

    health/partial_groups: share of the step's groups with fewer rollouts than ``group_size``; health/missing_rollouts:
    how many are missing; verl trains such groups and says nothing. health/correct_log_prob: mean log-prob of a policy
    token in CORRECT rollouts, in nats, by the policy before the update; left out where no rollout is CORRECT.
    """
    sizes = Counter(rollout.group for rollout in step.rollouts)
    whole = sum(size >= group_size for size in sizes.values())
    found = {
        "health/partial_groups": 1 - whole / groups,
        "health/missing_rollouts": float(group_size * groups - sum(sizes.values())),
    }
    correct = [
        log_probs[torch.tensor(rollout.response_mask, dtype=torch.bool)]
        for rollout, log_probs in zip(step.rollouts, step.log_probs, strict=True)
        if is_correct(rollout.f1, config)
    ]
    if correct:
        found["health/correct_log_prob"] = float(torch.cat(correct).mean())
    return found


def prepared_metrics(inputs: Sequence[TeacherInputs]) -> dict[str, float]:
    """What the teacher will read."""
    rows = [row for item in inputs for row in item.rows]
    return {
        "sd_search/query_tokens": float(sum(len(row.student_positions) for row in rows)),
        "sd_search/teacher_tokens": float(sum(len(row.input_ids) for row in rows)),
        "sd_search/shortened_blocks": _total(item.dropped > 0 for item in inputs),
    }


def check_failure_rate(
    metrics: dict[str, float], records: Sequence[dict[str, Any]], config: SearchConfig
) -> None:
    """Stop the run when search has failed too often.

    Raises:
        SearchUnavailableError: above ``search.max_failure_rate``.
    """
    searches = sum(len(record["latencies_s"]) for record in records)
    if config.max_failure_rate is None or searches == 0:
        return
    rate = metrics["search/failures"] / searches
    if rate > config.max_failure_rate:
        raise SearchUnavailableError(
            f"{rate:.0%} of this step's {searches} searches failed, more than search.max_failure_rate="
            f"{config.max_failure_rate:.0%}; check the retriever at {', '.join(config.retriever_urls)}"
        )


def _total(values: Any) -> float:
    return float(sum(values))
