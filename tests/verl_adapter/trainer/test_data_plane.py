"""A step's rollouts have one order, whatever order they finished in."""

from __future__ import annotations

import random

from transfer_queue import KVBatchMeta

from sd_search_verl.verl_adapter.trainer.data_plane import sort_rollouts


def test_rollouts_are_in_the_order_of_questions_and_places() -> None:
    # uids are random; more than ten places, so that text order would not do
    uids = ["f3", "0a", "b1"]
    keys = [f"{uid}_{session}_0" for uid in uids for session in range(12)]
    mixed = list(keys)
    random.Random(0).shuffle(mixed)
    batch = KVBatchMeta(partition_id="train", keys=list(mixed), tags=[{"of": key} for key in mixed])
    sort_rollouts(batch, {uid: place for place, uid in enumerate(uids)})
    assert batch.keys == keys
    assert [tag["of"] for tag in batch.tags] == keys


def test_questions_without_a_place_stay_together_at_the_end() -> None:
    batch = KVBatchMeta(partition_id="train", keys=["b_1_0", "z_0_0", "a_0_0", "b_0_0"], tags=[{}] * 4)
    sort_rollouts(batch, {"z": 0})
    assert batch.keys == ["z_0_0", "a_0_0", "b_0_0", "b_1_0"]
