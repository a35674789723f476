"""verl hands out whole groups: a hindsight block is made of finished rollouts only, in asynchronous modes too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import transfer_queue as tq
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.trainer.ppo.v1.replay_buffer import ReplayBufferAsync

from sd_search_verl.verl_adapter.trainer.data_plane import drop_trained

Tags = dict[str, dict[str, Any]]


@pytest.fixture
def items() -> Iterator[Tags]:
    """The tags of the data plane's training rows, by key."""
    held: Tags = {}

    def clear(keys: list[str], partition_id: str) -> None:
        for key in keys:
            held.pop(key, None)

    async def put(key: str, partition_id: str, tag: dict[str, Any]) -> None:
        held.setdefault(key, {}).update(tag)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tq, "kv_list", lambda partition_id=None: {"train": {k: dict(v) for k, v in held.items()}}
        )
        patch.setattr(tq, "kv_clear", clear)
        patch.setattr(tq, "async_kv_put", put)
        yield held


def add_group(items: Tags, uid: str, status: str, step: int, rollouts: int = 3) -> None:
    items[uid] = {"is_prompt": True, "status": status, "global_steps": step}
    items.update({f"{uid}_{i}_0": {"global_steps": step} for i in range(rollouts)})


def buffer(items: Tags, **options: Any) -> ReplayBufferAsync:
    def refill(count: int) -> None:
        for place in range(count):
            add_group(items, f"new{place}", "finished", 9)

    return ReplayBufferAsync(
        trainer_mode="colocate_async",
        trainer_config={},
        max_off_policy_threshold=options.get("threshold", 8),
        max_off_policy_strategy=options.get("strategy", "drop"),
        sampler_kwargs={},
        poll_interval=0.01,
        refill_fn=refill,
    )


def groups(batch: Any) -> dict[str, int]:
    uids = [key.split("_")[0] for key in batch.keys]
    return {uid: uids.count(uid) for uid in uids}


def test_only_finished_groups_are_sampled_oldest_first(items: Tags) -> None:
    for uid, status, step, rollouts in [
        ("running", "running", 3, 2),  # two of its three rollouts are there already
        ("pending", "pending", 3, 0),
        ("late", "finished", 5, 3),
        ("early", "finished", 4, 3),
        ("last", "finished", 6, 3),
    ]:
        add_group(items, uid, status, step, rollouts)
    batch, _ = buffer(items).sample(global_steps=6, partition_id="train", batch_size=2)
    assert groups(batch) == {"early": 3, "late": 3}
    assert {"running", "pending", "last"} <= items.keys()


def test_a_failed_group_leaves_whole_and_another_question_takes_its_place(items: Tags) -> None:
    add_group(items, "failed", "failure", 5, 2)
    add_group(items, "whole", "finished", 5)
    batch, metrics = buffer(items).sample(global_steps=6, partition_id="train", batch_size=2)
    assert groups(batch) == {"whole": 3, "new0": 3}
    assert not any(key.startswith("failed") for key in items)
    assert metrics["training/rollout_failure/evicted_samples"] == 1


def test_a_group_that_is_too_old_leaves_whole(items: Tags) -> None:
    add_group(items, "old", "finished", 1)
    add_group(items, "whole", "finished", 5)
    batch, metrics = buffer(items, threshold=3).sample(global_steps=6, partition_id="train", batch_size=2)
    assert groups(batch) == {"whole": 3, "new0": 3}
    assert metrics["training/off_policy/evicted_samples"] == 1


def test_a_group_is_finished_when_its_last_rollout_is(items: Tags) -> None:
    """Also where one of them fails early: nothing is written behind the state that ends the group."""
    seen: list[tuple[int, str]] = []

    class Worker(agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class):
        def __init__(self, fails: int | None) -> None:
            self.config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=SimpleNamespace(n=3)))
            self.fails = fails

        async def _run_agent_loop(self, *_: Any, session_id: int, **__: Any) -> None:
            await asyncio.sleep(0.01 * session_id)
            seen.append((session_id, items["q"]["status"]))
            if session_id == self.fails:
                raise RuntimeError("no")

    for fails, end in ((None, "finished"), (0, "failure")):
        seen.clear()
        add_group(items, "q", "pending", 3, 0)
        asyncio.run(Worker(fails)._run_prompt({"uid": "q"}, {}, {"validate": False}))
        assert seen == [(0, "running"), (1, "running"), (2, "running")]
        assert items["q"]["status"] == end


def test_rows_that_were_trained_on_do_not_come_back_from_a_checkpoint(items: Tags) -> None:
    """verl removes a sampled question at once, and its rollouts after the checkpoint."""
    add_group(items, "waiting", "finished", 5)
    add_group(items, "running", "running", 5, 1)
    add_group(items, "trained", "finished", 4)
    del items["trained"]
    before = {key for key in items if not key.startswith("trained")}
    assert drop_trained() == 3
    assert items.keys() == before
    assert drop_trained() == 0
