"""One rank of several: gradients of alpha * L_SD over a shared batch, each data-parallel rank with its part.

``python -m support.ranks MODEL OUT CASE...`` with the environment of a rank; started by ``launch``.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).resolve().parents[1]
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
    common = {
        **os.environ,
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    common["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", program, str(model), str(out), *cases]
    ranks = [
        subprocess.Popen(
            command, env={**common, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [rank.communicate(timeout=timeout)[0].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert not any(rank.returncode for rank in ranks), "\n".join(output[-3000:] for output in outputs)
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


if __name__ == "__main__":
    main(*sys.argv[1:])
