"""Two FSDP2 ranks over gloo give the loss and the gradients of one rank, also where one has nothing to score."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engine import (
    batch_of,
    compose,
    gradients,
    make_worker,
    recorded_rows,
    settings,
    single_rank_environment,
    teacher_inputs,
)
from support.tiny import byte_tokenizer, save_tiny_model

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def two_ranks(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "support.two_ranks", str(model), str(out)]
    ranks = [
        subprocess.Popen(
            command, env={**common, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in range(2)
    ]
    try:
        # A rank that waits for the other would hang here.
        outputs = [rank.communicate(timeout=180)[0].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(output[-3000:] for output in outputs)
    return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", ["mixed", "one_silent"])
def test_two_ranks_equal_one(two_ranks: list[dict[str, Any]], model: Path, case: str) -> None:
    tokens = [rank[case]["tokens"] for rank in two_ranks]
    assert tokens[0] > 0
    assert (tokens[1] == 0) == (case == "one_silent")
    single_rank_environment()
    tokenizer, config = byte_tokenizer(), settings()
    rows = recorded_rows(tokenizer, groups=4, size=4)
    inputs = teacher_inputs(rows, config, tokenizer)
    pairs = sorted(zip(rows, inputs, strict=True), key=lambda pair: -len(pair[1].rows))
    speaking = sum(bool(item.rows) for _, item in pairs)
    if case == "one_silent":
        pairs = [*pairs[: speaking // 2], *pairs[-(speaking // 2) :]]
    worker = make_worker(compose(model))
    worker.loss_fn.config = config
    batch = batch_of([row for row, _ in pairs], [item for _, item in pairs], 0.7, micro_batch_size_per_gpu=1)
    expected, metrics = gradients(worker, batch)
    for rank in two_ranks:
        assert float(rank[case]["metrics"]["sd_search/loss"][0]) == pytest.approx(
            float(metrics["sd_search/loss"][0]), rel=1e-5
        )
        ours = rank[case]["gradients"]
        assert ours.keys() == expected.keys()
        difference = sum((ours[n] - expected[n]).double().square().sum() for n in ours)
        size = sum(expected[n].double().square().sum() for n in ours)
        assert float((difference / size).sqrt()) < 1e-5
