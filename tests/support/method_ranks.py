"""One rank of several: gradients of a shared batch with every switch.

``main`` runs in the process of a rank, started by ``ranks.launch``.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch


def main(model: str, out: str, *cases: str) -> None:
    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM

    from support.engine import compose, gradients, make_worker, settings
    from support.methods import CASES, method_batch, rows_with_answers

    world_size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    rows = rows_with_answers(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    )
    size = 8 // world_size
    options = {"micro_batch_size_per_gpu": 1, "mini_batch_size": 8, "global_batch_size": 8}
    worker = make_worker(compose(Path(model), [f"trainer.n_gpus_per_node={world_size}"]))
    found = {}
    for case in cases:
        alpha, changes = CASES[case]
        worker.loss_fn.config = settings(**changes)
        share = slice(rank * size, (rank + 1) * size)
        batch = method_batch(rows, worker.loss_fn.config, alpha, share, **options)
        found[case] = gradients(worker, batch)[0]
    torch.save(found, Path(out) / f"rank{rank}.pt")
