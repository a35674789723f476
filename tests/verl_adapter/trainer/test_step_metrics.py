"""Metrics of a step: who is missing, how likely CORRECT rollouts are, and when too many searches have failed."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest
import torch
from support.engine import recorded_rows
from support.tiny import byte_tokenizer

from sd_search_verl.config import HindsightConfig, SDSearchConfig, SearchConfig
from sd_search_verl.hindsight.teacher_inputs import build_teacher_inputs
from sd_search_verl.protocol.base import Messages
from sd_search_verl.retriever_client.client import RetrieverClient
from sd_search_verl.rollout.types import Prompt, Rollout, Search
from sd_search_verl.rollout.versions import mask_older_than
from sd_search_verl.runs.schema import Trace
from sd_search_verl.verl_adapter.trainer.data_plane import StepRollouts
from sd_search_verl.verl_adapter.trainer.step_metrics import (
    SearchUnavailableError,
    check_failure_rate,
    count_replaced_groups,
    health_metrics,
    jsd_by_staleness,
    prepared_metrics,
    require_distilled,
    search_metrics,
    staleness_metrics,
)


def step(missing: tuple[int, ...] = ()) -> StepRollouts:
    """Four groups of four, without the rollouts at these places."""
    rows = [row for place, row in enumerate(recorded_rows(byte_tokenizer())) if place not in missing]
    log_probs = [torch.tensor(row.old_log_probs) for row in rows]
    return StepRollouts(list(range(len(rows))), [row.rollout for row in rows], [0.0] * len(rows), log_probs)


@pytest.mark.parametrize(
    ("missing", "share", "lost"),
    [((), 0.0, 0), ((1,), 0.25, 1), ((1, 2, 15), 0.5, 3), ((4, 5, 6, 7), 0.25, 4)],
    ids=["none", "one", "two groups", "a whole group"],
)
def test_partial_groups(missing: tuple[int, ...], share: float, lost: int) -> None:
    found = health_metrics(step(missing), 4, 4, HindsightConfig())
    assert (found["health/partial_groups"], found["health/missing_rollouts"]) == (share, lost)


def test_equal_rewards_are_counted_by_group() -> None:
    finished = step()
    for place, rollout in enumerate(finished.rollouts):
        rollout.reward = float(rollout.prompt.group == finished.rollouts[0].prompt.group and place == 0)
    assert health_metrics(finished, 4, 4, HindsightConfig())["health/equal_rewards"] == 0.75


def test_log_prob_of_correct_rollouts_is_over_the_policys_tokens() -> None:
    finished = step()
    values = [
        log_prob
        for rollout, log_probs in zip(finished.rollouts, finished.log_probs, strict=True)
        for log_prob, mask in zip(log_probs.tolist(), rollout.response_mask, strict=True)
        if mask and rollout.f1 > 0
    ]
    found = health_metrics(finished, 4, 4, HindsightConfig())
    assert found["health/correct_log_prob"] == pytest.approx(sum(values) / len(values), rel=1e-5)
    none = StepRollouts([], finished.rollouts[:1], [0.0], finished.log_probs[:1])
    none.rollouts[0] = replace(none.rollouts[0], f1=0.0)
    assert "health/correct_log_prob" not in health_metrics(none, 4, 4, HindsightConfig())


def test_rollouts_rejected_by_verls_rollout_correction_leave_the_health_metrics() -> None:
    """verl sets the mask of a rejected rollout to 0; a mean over no token would be NaN."""
    finished = step()
    correct = [place for place, rollout in enumerate(finished.rollouts) if rollout.f1 > 0]
    for place in correct[1:]:
        rollout = finished.rollouts[place]
        finished.rollouts[place] = replace(rollout, response_mask=[0] * len(rollout.response_mask))
    first = correct[0]
    mask = torch.tensor(finished.rollouts[first].response_mask, dtype=torch.bool)
    expected = float(finished.log_probs[first][mask].mean())
    found = health_metrics(finished, 4, 4, HindsightConfig())
    assert found["health/correct_log_prob"] == pytest.approx(expected)
    rollout = finished.rollouts[first]
    finished.rollouts[first] = replace(rollout, response_mask=[0] * len(rollout.response_mask))
    assert "health/correct_log_prob" not in health_metrics(finished, 4, 4, HindsightConfig())


def test_an_update_without_the_method_is_an_error() -> None:
    rollouts = step().rollouts
    tokenizer = byte_tokenizer()
    inputs = build_teacher_inputs(rollouts, SDSearchConfig(), tokenizer, lambda _: [0], seed=0)
    require_distilled(inputs, {"sd_search/jsd": 0.0})
    require_distilled([replace(item, rows=[]) for item in inputs], {})
    with pytest.raises(
        RuntimeError, match=r"tokens to score and reported no sd_search/jsd: verl [\d.]+ does not"
    ):
        require_distilled(inputs, {"actor/pg_loss": 0.0})


def test_a_dead_retriever_stops_the_run_above_the_ceiling() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/retrieve"
        client = RetrieverClient([url], top_k=1, timeout_s=2.0, max_retries=0)
        found = asyncio.run(client.search("who wrote it"))
    prompt = Prompt("g", [], [])
    failed = Search("who wrote it", "", found.latency_s, found.error, False)
    answered = Search("who", "Emma", 0.01, None, True)
    rollouts = [Rollout(prompt, searches=[failed]), Rollout(prompt, searches=[answered] * 3)]
    config = SearchConfig(retriever_urls=[url], max_failure_rate=0.2)
    with pytest.raises(
        SearchUnavailableError, match=rf"25% of this step's 4 searches failed.*{url}.*Most often: .*Connect"
    ):
        check_failure_rate(rollouts, config)
    with_key = SearchConfig(retriever_urls=[url.replace("//", "//:secret@")], max_failure_rate=0.2)
    with pytest.raises(SearchUnavailableError) as error:
        check_failure_rate(rollouts, with_key)
    assert "secret" not in str(error.value)
    check_failure_rate(rollouts, SearchConfig(max_failure_rate=0.25))
    check_failure_rate(rollouts, SearchConfig())


def test_empty_and_shortened_blocks_are_counted_and_their_share_is_watched() -> None:
    tokenizer = byte_tokenizer()
    rollouts = [row.rollout for row in recorded_rows(tokenizer)]

    def encode(messages: Messages) -> list[int]:
        return [int(i) for i in tokenizer.encode(str(messages))]

    def found(max_tokens: int) -> dict[str, float]:
        hindsight = HindsightConfig(content="full", max_tokens=max_tokens)
        inputs = build_teacher_inputs(
            rollouts, SDSearchConfig(hindsight=hindsight), tokenizer, encode, seed=0
        )
        return prepared_metrics(inputs)

    assert found(100_000)["health/shortened_blocks"] == found(100_000)["sd_search/empty_blocks"] == 0
    nothing_fits = found(16)
    assert nothing_fits["health/shortened_blocks"] == 1
    assert nothing_fits["sd_search/empty_blocks"] == sum(bool(rollout.spans) for rollout in rollouts) > 0


def test_a_block_that_was_never_to_hold_anything_is_not_an_empty_one() -> None:
    tokenizer = byte_tokenizer()
    rollouts = [row.rollout for row in recorded_rows(tokenizer)]

    def encode(messages: Messages) -> list[int]:
        return [int(i) for i in tokenizer.encode(str(messages))]

    config = SDSearchConfig(hindsight=HindsightConfig(content="none"))
    inputs = build_teacher_inputs(rollouts, config, tokenizer, encode, seed=0)
    assert not any(block for item in inputs for block in item.blocks)
    assert prepared_metrics(inputs)["sd_search/empty_blocks"] == 0


def test_the_rows_behind_inverted_labels_are_read_too() -> None:
    tokenizer = byte_tokenizer()
    rollouts = [row.rollout for row in recorded_rows(tokenizer)]

    def encode(messages: Messages) -> list[int]:
        return [int(i) for i in tokenizer.encode(str(messages))]

    inputs = build_teacher_inputs(rollouts, SDSearchConfig(), tokenizer, encode, seed=0, flipped=True)
    read = [row.input_ids for item in inputs for row in [*item.rows, *item.flipped]]
    found = prepared_metrics(inputs)
    assert found["sd_search/teacher_tokens"] == sum(map(len, read))
    assert found["sd_search/query_tokens"] == sum(
        len(row.student_positions) for item in inputs for row in item.rows
    )


def test_a_step_without_a_search_has_no_times_and_no_rates_of_searches() -> None:
    found = search_metrics([Rollout(Prompt("g", [], [])), Rollout(Prompt("g", [], []))])
    assert not {"search/latency_s_p50", "search/latency_s_p99", "search/gold_in_documents"} & found.keys()
    assert found["search/searches_per_rollout"] == found["search/failures"] == 0


def test_groups_that_an_asynchronous_mode_replaced_lack_rollouts() -> None:
    name = "training/rollout_failure/evicted_samples"
    metrics = health_metrics(step((1,)), 4, 4, HindsightConfig())
    count_replaced_groups(metrics, 4, 4)
    assert (metrics["health/partial_groups"], metrics["health/missing_rollouts"]) == (0.25, 1)
    metrics[name] = 2.0
    count_replaced_groups(metrics, 4, 4)
    assert (metrics["health/partial_groups"], metrics["health/missing_rollouts"]) == (0.5, 9)
    count_replaced_groups(only := {name: 1.0}, 4, 4)
    assert only == {name: 1.0}


def stale_step() -> list[Rollout]:
    """The rollouts of a step at version 6, the even ones sampled by version 4 up to a query's second token."""
    rollouts = [row.rollout for row in recorded_rows(byte_tokenizer())]
    for place, rollout in enumerate(rollouts):
        rollout.versions = [(0, 6)]
        if place % 2 == 0 and rollout.spans:
            rollout.versions = [(0, 4), (rollout.spans[0][0] + 2, 6)]
    return rollouts


def test_staleness_is_counted_in_query_tokens() -> None:
    rollouts = stale_step()
    mixed = [r for r in rollouts if len(r.versions) > 1]
    tokens = sum(end - start for r in rollouts for start, end in r.spans)
    found = staleness_metrics(rollouts, version=6)
    assert len(mixed) > 2
    assert found["sd_search/staleness_max"] == 2
    assert found["sd_search/stale_query_tokens"] == pytest.approx(2 * len(mixed) / tokens)
    assert found["sd_search/staleness_mean"] == pytest.approx(4 * len(mixed) / tokens)
    assert found["sd_search/mixed_queries"] == len(mixed) / sum(len(r.spans) for r in rollouts)
    assert staleness_metrics(rollouts, version=7)["sd_search/stale_query_tokens"] == 1
    assert staleness_metrics([replace(r, versions=[]) for r in rollouts], version=6) == {}


def test_rejected_and_too_old_tokens_leave_the_distillation_and_its_metrics() -> None:
    tokenizer, rollouts = byte_tokenizer(), stale_step()
    config = SDSearchConfig(max_staleness=1)

    def scored(rollouts: list[Rollout]) -> list[int]:
        inputs = build_teacher_inputs(rollouts, config, tokenizer, lambda m: tokenizer.encode(str(m)), 1)
        return [sum(len(row.student_positions) for row in item.rows) for item in inputs]

    whole, fresh = scored(rollouts), scored([mask_older_than(r, 6 - 1) for r in rollouts])
    assert [before - after for before, after in zip(whole, fresh, strict=True)] == [
        2 * (len(r.versions) > 1) for r in rollouts
    ]
    for rollout in rollouts:
        rollout.response_mask = [0] * len(rollout.response_mask)  # all rejected
    assert sum(scored(rollouts)) == 0
    assert staleness_metrics(rollouts, version=6) == {}


def test_divergence_by_staleness_is_of_traced_tokens() -> None:
    rollouts = stale_step()
    traces = []
    for rollout in rollouts:
        divergence = [
            [0.5 if j < start + 2 else 0.1 for j in range(start, end)] for start, end in rollout.spans
        ]
        texts = ["x"] * len(rollout.response_ids)
        traces.append(Trace.of(7, rollout, 0.0, texts, divergence=divergence, credit=divergence))
    only_mixed = [trace for trace in traces if len(trace.versions) > 1 and len(trace.spans) == 1]
    found = jsd_by_staleness(only_mixed, version=6)
    assert found == {
        "sd_search/jsd_at_staleness/0": pytest.approx(0.1),
        "sd_search/jsd_at_staleness/2": pytest.approx(0.5),
    }
    assert jsd_by_staleness([trace for trace in traces if len(trace.versions) == 1], version=6) == {}
