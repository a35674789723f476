"""One rank of several: gradients of alpha * L_SD with the head in different FSDP units, before and after an update.

``main`` runs in the process of a rank, started by ``ranks.launch``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

ACTOR = "actor_rollout_ref.actor"
FSDP1 = [f"{ACTOR}.strategy=fsdp"]
KEEP_WHOLE = [f"{ACTOR}.fsdp_config.reshard_after_forward=False"]
ADAPTERS = ["actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.lora_alpha=8"]
DYNAMIC = {"use_dynamic_bsz": True, "max_token_len_per_gpu": 600}
CASES: dict[str, list[str]] = {
    "fsdp2": [],
    "fsdp2, kept whole": KEEP_WHOLE,
    "fsdp2, dynamic": [],
    "fsdp2, hybrid": [f"{ACTOR}.fsdp_config.fsdp_size=2"],
    "fsdp2, adapters": ADAPTERS,
    "fsdp1": FSDP1,
    "fsdp1, kept whole": [*FSDP1, *KEEP_WHOLE],
    "fsdp1, dynamic": FSDP1,
    "fsdp1, prefetch": [*FSDP1, f"{ACTOR}.fsdp_config.forward_prefetch=True"],
    # Every layer above 10,000 parameters becomes a unit, the untied head too.
    "fsdp1, head a unit": [*FSDP1, f"{ACTOR}.fsdp_config.wrap_policy.min_num_params=10000"],
    "fsdp1, hybrid": [*FSDP1, f"{ACTOR}.fsdp_config.fsdp_size=2"],
}


def rows_of(tokenizer: Any) -> dict[str, list[Any]]:
    """Return two batches of 8: queries on all ranks, and on those of the first half only."""
    from support.engine import recorded_rows

    rows = recorded_rows(tokenizer)
    with_queries = [row for row in rows if row.rollout.queries]
    without = [row for row in rows if not row.rollout.queries]
    return {"uneven": rows[:8], "first half only": with_queries[:4] + without[:4]}


def main(model: str, out: str, *cases: str) -> None:
    torch.set_num_threads(1)
    from verl.utils import tensordict_utils as tu

    from support import fsdp1
    from support.agreement import sd_gradients
    from support.engine import compose, make_worker, settings, weights
    from support.tiny import byte_tokenizer

    world_size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    batches = rows_of(byte_tokenizer())
    size = 8 // world_size
    share = slice(rank * size, (rank + 1) * size)
    found = {}
    for case in cases:
        torch.manual_seed(0)  # of the adapters' first weights
        with fsdp1.cpu_states_allowed():
            worker = make_worker(
                compose(Path(model), [f"trainer.n_gpus_per_node={world_size}", *CASES[case]])
            )
        options = {"micro_batch_size_per_gpu": 1, "mini_batch_size": 8, "global_batch_size": 8}
        options |= DYNAMIC if "dynamic" in case else {}
        module = worker.actor.engine.module
        found[case] = {"units": units(module), "stored": sum(map(local_size, module.parameters()))}
        for name, rows in batches.items():
            grads, metrics = sd_gradients(worker, rows, settings(), share=share, **options)
            found[case][name] = {"gradients": grads, "loss": float(metrics["sd_search/loss"][0])}
        output = worker.update_actor(batch(batches["uneven"], share, options))
        found[case]["grad_share"] = tu.get(output, "metrics")["sd_search/grad_share"]
        found[case]["weights"] = weights(worker)
        grads, metrics = sd_gradients(worker, batches["uneven"], settings(), share=share, **options)
        found[case]["after the update"] = {"gradients": grads, "loss": float(metrics["sd_search/loss"][0])}
    torch.save(found, Path(out) / f"rank{rank}.pt")


def batch(rows: list[Any], share: slice, options: dict[str, Any]) -> Any:
    """Return an ordinary mini-batch, with advantages and the teacher, in which the gradients' share is measured."""
    from sd_search_verl.verl_adapter.fields import MEASURE_GRAD_SHARE
    from support.engine import batch_of, settings, teacher_inputs
    from support.tiny import byte_tokenizer

    inputs = teacher_inputs(rows, settings(), byte_tokenizer())
    return batch_of(rows[share], inputs[share], 0.7, **options, **{MEASURE_GRAD_SHARE: True})


def local_size(parameter: Any) -> int:
    """Return how many values of a parameter this rank stores."""
    return parameter.to_local().numel() if hasattr(parameter, "to_local") else parameter.numel()


def units(module: Any) -> list[str]:
    """Return the names of the modules that FSDP shards on their own."""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    kinds = (FSDPModule, FullyShardedDataParallel)
    return [
        name.replace("_fsdp_wrapped_module.", "")
        for name, part in module.named_modules()
        if isinstance(part, kinds)
    ]
