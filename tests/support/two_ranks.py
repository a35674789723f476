"""One rank of two: gradients of a shared batch, each rank with its part. Started by ``ranks.launch``."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def main(model: str, out: str, *cases: str) -> None:
    torch.set_num_threads(1)
    from support.engine import (
        batch_of,
        compose,
        gradients,
        make_worker,
        recorded_rows,
        settings,
        teacher_inputs,
    )
    from support.tiny import byte_tokenizer

    rank = int(os.environ["RANK"])
    tokenizer = byte_tokenizer()
    config = settings()
    rows = recorded_rows(tokenizer, groups=4, size=4)
    inputs = teacher_inputs(rows, config, tokenizer)
    pairs = sorted(zip(rows, inputs, strict=True), key=lambda pair: -len(pair[1].rows))
    speaking = sum(bool(item.rows) for _, item in pairs)
    parts = {
        "mixed": pairs[rank::2],  # both ranks have queries, not equally many
        "one_silent": (pairs[: speaking // 2] if rank == 0 else pairs[-(speaking // 2) :]),
    }
    worker = make_worker(compose(Path(model), ["trainer.n_gpus_per_node=2"]))
    worker.loss_fn.config = config
    found = {}
    for name in cases:
        part = parts[name]
        tokens = sum(len(row.student_positions) for _, item in part for row in item.rows)
        batch = batch_of(
            [row for row, _ in part], [item for _, item in part], 0.7, micro_batch_size_per_gpu=1
        )
        grads, metrics = gradients(worker, batch)
        found[name] = {"tokens": tokens, "gradients": grads, "metrics": metrics}
    torch.save(found, Path(out) / f"rank{rank}.pt")
