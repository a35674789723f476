"""verl's data plane in this process: the calls of ``transfer_queue`` that a trainer makes on one batch, on a dict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.utils import tensordict_utils as tu
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from sd_search_verl.rollout.record import ROLLOUT_KEY, to_plain
from support.engine import Row, batch_of

PLAIN = {"uid", "raw_prompt", "extra_fields", "num_turns"}
"""Fields of objects, which verl's workers are not given here."""


class MemoryPlane:
    """Rows by key, each a dict of fields."""

    def __init__(self, rows: Sequence[Row], global_steps: int) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        known = batch_of(rows, None, 0.0)
        for place, row in enumerate(rows):
            rollout = row.rollout
            fields = {name: known[name][place] for name in known.keys() if isinstance(known[name], Tensor)}  # noqa: SIM118
            scores = fields["advantages"] * 0
            scores[-1] = rollout.f1
            fields |= {
                "rm_scores": scores,
                "rollout_log_probs": fields["old_log_probs"] - 0.05 * (place % 5),
                "uid": rollout.prompt.group,
                "raw_prompt": rollout.prompt.messages,
                "extra_fields": {ROLLOUT_KEY: to_plain(rollout)},
                "num_turns": 2,
            }
            fields.pop("advantages")
            self.rows[f"{rollout.prompt.group}_{place}_0"] = fields
        tags = [
            {"global_steps": global_steps, "seq_len": len(row["input_ids"])} for row in self.rows.values()
        ]
        self.batch = KVBatchMeta(keys=list(self.rows), tags=tags, partition_id="train")

    def get(self, keys: list[str], partition_id: str, select_fields: list[str] | None = None) -> TensorDict:
        """Return the fields that exist, as ``kv_batch_get`` does."""
        first = self.rows[keys[0]]
        names = [name for name in select_fields or first if name in first]
        found = list_of_dict_to_tensordict([{name: self.rows[key][name] for name in names} for key in keys])
        for name in set(names) - PLAIN:  # rows of equal length are stacked there, and are jagged here
            found[name] = tu.torch.nested.as_nested_tensor(
                [self.rows[key][name] for key in keys], layout=tu.torch.jagged
            )
        return found

    def put(self, keys: list[str], partition_id: str, fields: TensorDict) -> KVBatchMeta:
        """Store fields, as ``kv_batch_put`` does; the meta returned has no extra_info."""
        for name in fields.keys():  # noqa: SIM118
            for key, value in zip(keys, fields[name].unbind(), strict=True):
                self.rows[key][name] = value
        by_key = dict(zip(self.batch.keys, self.batch.tags, strict=True))
        return KVBatchMeta(keys=keys, tags=[by_key[key] for key in keys], partition_id=partition_id)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Answer verl's and our calls while the context lasts."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tq, "kv_batch_get", self.get)
            patch.setattr(tq, "kv_batch_put", self.put)
            yield


class WorkerGroup:
    """One worker as verl's group of workers."""

    def __init__(self, worker: Any, plane: MemoryPlane) -> None:
        self.worker, self.plane = worker, plane

    def update_actor(self, batch: KVBatchMeta) -> dict[str, Any]:
        """Run the update on the batch's rows."""
        names = [name for name in self.plane.rows[batch.keys[0]] if name not in PLAIN]
        data = self.plane.get(batch.keys, "train", names)
        tu.assign_non_tensor(data, **batch.extra_info)
        metrics = dict(tu.get(self.worker.update_actor(data), "metrics"))
        return {"metrics": {"mfu": [0.0], **metrics}}

    def take_credits(self) -> list[Any]:
        """Return the credit by rank."""
        return [self.worker.take_credits()]
