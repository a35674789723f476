"""Adapters (LoRA) in verl's real engine: teacher and student have them, and they alone learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import sharded_ranks
from support.agreement import naive_credit, reference_of, relative_difference, sd_gradients
from support.engine import (
    batch_of,
    compose,
    full,
    make_worker,
    recorded_rows,
    settings,
    single_rank_environment,
    teacher_inputs,
    weights,
)
from support.ranks import launch
from support.tiny import byte_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM
from verl.utils import tensordict_utils as tu

from sd_search_verl.verl_adapter.actor.credit import by_span


@pytest.fixture(scope="module")
def adapted(model: Path) -> Any:
    """A worker whose adapters have been trained: B starts at 0, and the model would be the base model's."""
    single_rank_environment()
    worker = make_worker(compose(model, [*sharded_ranks.ADAPTERS, "actor_rollout_ref.actor.optim.lr=1e-2"]))
    rows = recorded_rows(byte_tokenizer())[:8]
    inputs = teacher_inputs(rows, settings(), byte_tokenizer())
    for _ in range(4):
        worker.update_actor(batch_of(rows, inputs, 0.7))
    return worker


def plain(model: Path, values: dict[str, Tensor]) -> Any:
    """Return the model with peft's adapters on it, of these values."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    adapters = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", bias="none")
    network = get_peft_model(network, adapters)
    network.load_state_dict(values, strict=False)
    return network.eval()


def test_only_adapters_learn_and_their_gradient_is_that_of_plain_pytorch(adapted: Any, model: Path) -> None:
    rows = recorded_rows(byte_tokenizer())[:8]
    network = plain(model, weights(adapted))
    ours, metrics = sd_gradients(adapted, rows, settings())
    theirs, loss = reference_of(network, rows, settings())
    assert ours.keys() == theirs.keys()
    assert len(ours) == 2 * 14
    assert all("lora_" in name for name in ours)
    # A has a gradient only where B is not 0, that is where the model differs from its base.
    assert all(float(gradient.abs().max()) > 0 for gradient in theirs.values())
    assert float(metrics["sd_search/loss"][0]) == pytest.approx(loss, rel=1e-5)
    assert relative_difference(ours, theirs) < 1e-5


def test_an_update_moves_adapters_only(adapted: Any) -> None:
    rows = recorded_rows(byte_tokenizer())[:8]
    before = weights(adapted)
    adapted.update_actor(batch_of(rows, teacher_inputs(rows, settings(), byte_tokenizer()), 0.7))
    after = weights(adapted)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "lora_" in name}


def test_what_verl_sends_to_servers_of_their_own_is_the_base_model(adapted: Any, model: Path) -> None:
    """Why adapters are refused in the separate mode: verl's worker sends there what get_per_tensor_param() returns."""
    sent, _ = adapted.actor.engine.get_per_tensor_param()
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    values = {name.replace(".base_layer", ""): value for name, value in sent}
    assert not any("lora_" in name for name in values)
    assert len(values) > 14
    assert all(torch.equal(value, base[name]) for name, value in values.items())


def test_credit_is_that_of_the_model_with_adapters(adapted: Any, model: Path) -> None:
    rows = recorded_rows(byte_tokenizer())[:8]
    inputs = teacher_inputs(rows, settings(), byte_tokenizer())
    network = plain(model, weights(adapted))
    adapted.actor.engine.optimizer_step = lambda: 0.0
    try:
        adapted.update_actor(batch_of(rows, inputs, 1e-4, traced=[0, 3]))
    finally:
        del adapted.actor.engine.optimizer_step
    found = adapted.take_credits()
    assert set(found) == {0, 3}
    for place, values in found.items():
        shown = by_span(rows[place].rollout, inputs[place], values)
        for span, theirs in zip(shown.credit, naive_credit(network, rows[place], inputs[place]), strict=True):
            assert span == pytest.approx(theirs, abs=2e-5)


@pytest.mark.parametrize("layered_summon", [False, True])
def test_the_rollout_engine_gets_the_adapters(adapted: Any, layered_summon: bool) -> None:
    engine = adapted.actor.engine
    sent, config = engine.get_per_tensor_param(layered_summon=layered_summon, base_sync_done=True)
    assert config["r"] == 4
    ours = {
        name.replace(".default", ""): full(value).detach()
        for name, value in engine.module.named_parameters()
        if "lora_" in name
    }
    received = dict(sent)
    assert received.keys() == ours.keys()
    assert all(torch.equal(received[name], value) for name, value in ours.items())


def test_the_reference_policy_is_the_model_without_adapters(adapted: Any, model: Path) -> None:
    rows = recorded_rows(byte_tokenizer())[:4]
    batch = batch_of(rows, None, 0.0)
    tu.assign_non_tensor(batch, compute_loss=False, no_lora_adapter=True)
    found = adapted.compute_log_prob(batch)["log_probs"]
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for row, ours in zip(rows, found.unbind(), strict=True):
        ids = torch.tensor(row.rollout.prompt.token_ids + row.rollout.response_ids)
        with torch.no_grad():
            logits = network(ids[None]).logits[0, :-1]
        theirs = logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        n = len(row.rollout.response_ids)
        assert torch.allclose(ours[-n - 1 : -1], theirs[-n:], atol=2e-5)


@pytest.mark.timeout(300)
def test_two_ranks_with_adapters(model: Path, tmp_path: Path) -> None:
    (ranks,) = launch(2, ["fsdp2, adapters"], model, tmp_path, 200, "support.sharded_ranks").values()
    rows = sharded_ranks.rows_of(byte_tokenizer())["uneven"]
    assert (
        ranks[0]["grad_share"]
        == ranks[1]["grad_share"]
        == [pytest.approx(share_of_one_rank(model, rows), rel=1e-4)]
    )
    theirs, loss = reference_of(plain(model, ranks[0]["weights"]), rows, settings())
    for rank in ranks:
        assert rank["after the update"]["loss"] == pytest.approx(loss, rel=1e-5)
        assert relative_difference(rank["after the update"]["gradients"], theirs) < 1e-5


def share_of_one_rank(model: Path, rows: list[Any]) -> float:
    """Return the measured share of the method's gradient, of adapters that have not been trained."""
    single_rank_environment()
    torch.manual_seed(0)  # as on each rank
    worker = make_worker(compose(model, sharded_ranks.ADAPTERS))
    options = {"micro_batch_size_per_gpu": 1, "mini_batch_size": 8, "global_batch_size": 8}
    output = worker.update_actor(sharded_ranks.batch(rows, slice(None), options))
    (share,) = tu.get(output, "metrics")["sd_search/grad_share"]
    return float(share)
