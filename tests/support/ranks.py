"""One rank of several: gradients of alpha * L_SD over a shared batch, each data-parallel rank with its part.

``main`` runs in the process of a rank, started by ``launch``.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from support.forked import start

PACKED = [
    "actor_rollout_ref.model.use_remove_padding=True",
    "actor_rollout_ref.model.override_config.attn_implementation=packed_cpu",
]
CASES = {
    "fsdp2": [],
    "ulysses2": [*PACKED, "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"],
}


def launch(
    world_size: int,
    cases: Sequence[str],
    model: Path,
    out: Path,
    timeout: float,
    program: str = "support.ranks",
) -> dict[str, list[Any]]:
    """Run the cases on that many ranks; per case what each rank found. A rank that waits for another fails in time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = f"import sys; from {program} import main; main(*sys.argv[1:])"
    logs = [out / f"rank{rank}.log" for rank in range(world_size)]
    ranks = [
        start(code, [str(model), str(out), *cases], {**os.environ, **common, "RANK": str(rank)}, log)
        for rank, log in enumerate(logs)
    ]
    end = time.monotonic() + timeout
    try:
        for process in ranks:
            process.join(max(end - time.monotonic(), 0))
        codes = [process.exitcode for process in ranks]  # None: it did not end
    finally:
        for process in ranks:
            process.kill()
    assert not any(code != 0 for code in codes), f"{codes}\n" + "\n".join(
        log.read_text()[-3000:] for log in logs
    )
    found = [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in range(world_size)]
    return {case: [rank[case] for rank in found] for case in cases}


def main(model: str, out: str, *cases: str) -> None:
    torch.set_num_threads(1)
    from support import packed_attention
    from support.agreement import sd_gradients
    from support.engine import compose, make_worker, recorded_rows, settings
    from support.tiny import byte_tokenizer

    packed_attention.install()
    world_size = int(os.environ["WORLD_SIZE"])
    rows = recorded_rows(byte_tokenizer(), groups=2, size=4)
    found = {}
    for case in cases:
        worker = make_worker(compose(Path(model), [f"trainer.n_gpus_per_node={world_size}", *CASES[case]]))
        engine = worker.actor.engine
        grads, metrics = sd_gradients(
            worker,
            rows,
            settings(),
            share=slice(engine.get_data_parallel_rank(), None, engine.get_data_parallel_size()),
            micro_batch_size_per_gpu=1,
            mini_batch_size=len(rows),
            global_batch_size=len(rows),
        )
        found[case] = {"gradients": grads, "metrics": metrics, "credits": worker.take_credits()}
    torch.save(found, Path(out) / f"rank{os.environ['RANK']}.pt")
