"""The simulation of step times: limits that can be worked out by hand, and the page's table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.asynchronous.rollouts import Machine
from benchmarks.asynchronous.sim import OUT, PAGE, page, simulate

ALONE = Machine(gpus=1, questions=1, group=1, turns=((10, 20),), latency_s=((0.0, 0.5), (1.0, 0.5)))
SMALL = Machine(gpus=8, questions=32, replicas=4)


def test_one_rollout_takes_its_turns_and_its_search() -> None:
    machine = replace(ALONE, token_s=0.01, batch_s=0.0, train_s_per_rollout=3.0, sync_s=1.0, poll_s=0.001)
    found = simulate("sync", machine)
    assert found["step_s"] == pytest.approx(30 * 0.01 + 0.5 + 3.0 + 1.0, abs=0.002)
    assert (found["staleness_mean"], found["wait_s_p99"]) == (0, 0)


def test_turns_of_one_engine_share_its_pace() -> None:
    machine = replace(ALONE, group=4, turns=((100,),), token_s=0.01, batch_s=0.01, sync_s=0.0, poll_s=0.001)
    found = simulate("sync", replace(machine, train_s_per_rollout=0.0))
    assert found["step_s"] == pytest.approx(100 * (0.01 + 4 * 0.01), abs=0.002)


def test_a_step_is_seen_to_be_complete_at_the_next_look() -> None:
    machine = replace(ALONE, train_s_per_rollout=0.0, sync_s=0.0, poll_s=2.0)
    assert simulate("sync", machine)["step_s"] == pytest.approx(2.0)


@pytest.mark.parametrize("slow", [0.0, 0.05])
def test_the_colocated_mode_is_not_slower_and_gains_with_late_queries(slow: float) -> None:
    machine = replace(SMALL, slow=slow, service_factor=50.0)
    sync, colocated = (simulate(mode, machine) for mode in ("sync", "colocate_async"))
    assert colocated["step_s"] <= sync["step_s"] + machine.poll_s
    assert colocated["staleness_mean"] > 0
    if slow:
        assert colocated["step_s"] < 0.9 * sync["step_s"]


def test_queries_wait_for_a_retriever_that_is_too_small() -> None:
    machine = replace(SMALL, service_factor=1000.0, cores=1, replicas=1)
    one, many = (simulate("sync", replace(machine, replicas=count)) for count in (1, 256))
    assert one["step_s"] > 5 * many["step_s"]
    assert one["retriever_load"] > 0.8
    assert many["wait_s_p99"] == 0


def test_the_page_shows_the_table_that_was_made() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, OUT) == text
