"""Two FSDP2 ranks over gloo give the loss and the gradients of one rank, also where one has nothing to score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
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
from support.ranks import launch
from support.tiny import byte_tokenizer, save_tiny_model

CASES = ["mixed", "one_silent"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def two_ranks(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    # A rank that waits for the other would hang here.
    return launch(2, CASES, model, tmp_path_factory.mktemp("ranks"), 180, "support.two_ranks")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(two_ranks: dict[str, list[dict[str, Any]]], model: Path, case: str) -> None:
    tokens = [rank["tokens"] for rank in two_ranks[case]]
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
    for rank in two_ranks[case]:
        assert float(rank["metrics"]["sd_search/loss"][0]) == pytest.approx(
            float(metrics["sd_search/loss"][0]), rel=1e-5
        )
        ours = rank["gradients"]
        assert ours.keys() == expected.keys()
        difference = sum((ours[n] - expected[n]).double().square().sum() for n in ours)
        size = sum(expected[n].double().square().sum() for n in ours)
        assert float((difference / size).sqrt()) < 1e-5
