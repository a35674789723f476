"""The head's hook, the teacher pass and the loss where ranks hold shards: FSDP2 and FSDP1 against plain PyTorch.

Ranks talk over gloo. verl's FSDP1 engine runs with one check of torch's skipped, see ``support.fsdp1``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import fsdp1, sharded_ranks
from support.agreement import reference, relative_difference, sd_gradients
from support.engine import compose, make_worker, settings, single_rank_environment, weights
from support.ranks import launch
from support.tiny import byte_tokenizer, save_tiny_model
from transformers import AutoModelForCausalLM
from verl.utils import tensordict_utils as tu

SECONDS = 240
"""Limit of a launch: a rank that waits for another is killed then, and the test fails."""

HEADS = {"untied": False, "tied": True}
TWO_RANKS = {
    "untied": [case for case in sharded_ranks.CASES if "hybrid" not in case and "adapters" not in case],
    # Not with the head as a unit: FSDP1 then gives embedding and head a weight each.
    "tied": ["fsdp2", "fsdp2, kept whole", "fsdp1", "fsdp1, kept whole"],
}
FOUR_RANKS = ["fsdp2, hybrid", "fsdp1, hybrid"]  # test_breadth.py has four ranks that shard over all


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save_tiny_model(tmp_path_factory.mktemp(name), tied=tied) for name, tied in HEADS.items()}


@pytest.fixture(scope="module")
def two_ranks(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, list[Any]]]:
    return {
        head: launch(
            2, cases, models[head], tmp_path_factory.mktemp("ranks"), SECONDS, "support.sharded_ranks"
        )
        for head, cases in TWO_RANKS.items()
    }


@pytest.fixture(scope="module")
def four_ranks(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, list[Any]]]:
    out = tmp_path_factory.mktemp("ranks")
    return {"untied": launch(4, FOUR_RANKS, models["untied"], out, SECONDS, "support.sharded_ranks")}


@pytest.fixture(params=[2, pytest.param(4, marks=pytest.mark.slow)])
def launched(request: pytest.FixtureRequest) -> tuple[int, dict[str, dict[str, list[Any]]]]:
    """The number of ranks, and what they found by head and case."""
    return request.param, request.getfixturevalue({2: "two_ranks", 4: "four_ranks"}[request.param])


def agree(ranks: list[dict[str, Any]], model: Path, folder: Path) -> None:
    """Compare every rank with one process of plain PyTorch, on the first weights and on the updated ones."""
    batches = sharded_ranks.rows_of(byte_tokenizer())
    updated = save_with(model, ranks[0]["weights"], folder)
    for name, path in {"uneven": model, "first half only": model, "after the update": updated}.items():
        theirs, loss = reference(path, batches.get(name, batches["uneven"]), settings())
        for rank in ranks:
            assert rank[name]["loss"] == pytest.approx(loss, rel=1e-5)
            assert relative_difference(rank[name]["gradients"], theirs) < 1e-5


def save_with(model: Path, weights: dict[str, torch.Tensor], folder: Path) -> Path:
    """Return a folder with the model of another with these weights, which must differ."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    before = dict(network.named_parameters())
    assert before.keys() == weights.keys()
    assert all(not torch.equal(before[name], weights[name]) for name in before)
    network.load_state_dict(weights, strict=False)
    network.save_pretrained(folder)
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("head", "case"), [(head, case) for head in HEADS for case in TWO_RANKS[head]])
def test_two_ranks_equal_plain_pytorch(
    two_ranks: dict[str, dict[str, list[Any]]],
    models: dict[str, Path],
    tmp_path: Path,
    head: str,
    case: str,
) -> None:
    agree(two_ranks[head][case], models[head], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", FOUR_RANKS)
def test_four_ranks_equal_plain_pytorch(
    four_ranks: dict[str, dict[str, list[Any]]], models: dict[str, Path], tmp_path: Path, case: str
) -> None:
    agree(four_ranks["untied"][case], models["untied"], tmp_path)


@pytest.mark.timeout(600)
def test_the_head_is_a_unit_of_its_own_or_part_of_the_root(
    two_ranks: dict[str, dict[str, list[Any]]],
) -> None:
    """The cases above cover both: else they would prove less than they say."""

    def own(head: str, case: str) -> bool:
        return "lm_head" in two_ranks[head][case][0]["units"]

    assert own("untied", "fsdp2")
    assert not own("tied", "fsdp2")
    assert not own("untied", "fsdp1")
    assert not own("tied", "fsdp1")
    assert own("untied", "fsdp1, head a unit")


@pytest.mark.timeout(600)
def test_each_rank_stores_its_share(launched: tuple[int, dict[str, dict[str, list[Any]]]]) -> None:
    """An equal one, but for what fills up the last; a hybrid mesh of two by two stores the model twice."""
    ranks, cases = launched[0], launched[1]["untied"]
    for case, found in cases.items():
        whole = sum(gradient.numel() for gradient in found[0]["uneven"]["gradients"].values())
        shards = 2 if "hybrid" in case else ranks
        assert [rank["stored"] for rank in found] == pytest.approx([whole / shards] * ranks, rel=0.01), case


@pytest.mark.timeout(600)
def test_every_rank_measures_the_share_that_one_rank_does(
    launched: tuple[int, dict[str, dict[str, list[Any]]]], models: dict[str, Path]
) -> None:
    """Norms are over all shards: with FSDP2 and FSDP1, also where a hybrid mesh stores every shard twice."""
    single_rank_environment()
    rows = sharded_ranks.rows_of(byte_tokenizer())["uneven"]
    options = {"micro_batch_size_per_gpu": 1, "mini_batch_size": 8, "global_batch_size": 8}
    for head, cases in launched[1].items():
        worker = make_worker(compose(models[head]))
        output = worker.update_actor(sharded_ranks.batch(rows, slice(None), options))
        (alone,) = tu.get(output, "metrics")["sd_search/grad_share"]
        for case, ranks in cases.items():
            assert [rank["grad_share"] for rank in ranks] == [ranks[0]["grad_share"]] * len(ranks), case
            assert ranks[0]["grad_share"] == [pytest.approx(alone, rel=1e-4)], case


@pytest.mark.parametrize("head", HEADS)
def test_one_rank_of_fsdp1_is_not_sharded_and_agrees(models: dict[str, Path], head: str) -> None:
    single_rank_environment()
    with fsdp1.cpu_states_allowed():
        worker = make_worker(compose(models[head], sharded_ranks.FSDP1))
    module = worker.actor.engine.module
    assert not module._handle.uses_sharded_strategy
    assert module.get_output_embeddings() is module._fsdp_wrapped_module.lm_head
    rows = sharded_ranks.rows_of(byte_tokenizer())["uneven"]
    ours, _ = sd_gradients(worker, rows, settings())
    theirs, _ = reference(models[head], rows, settings())
    assert relative_difference(ours, theirs) < 1e-5
    assert weights(worker).keys() == theirs.keys()


def test_torch_still_refuses_fsdp1_on_a_cpu(models: dict[str, Path]) -> None:
    """When this fails, ``support.fsdp1.cpu_states_allowed`` is no longer needed."""
    single_rank_environment()
    with pytest.raises(ValueError, match="sync_module_states=True"):
        make_worker(compose(models["untied"], sharded_ranks.FSDP1))
