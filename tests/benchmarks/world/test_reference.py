"""The reference and the plugin are the same method: one batch through both gives the same losses and gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from support.agreement import relative_difference
from support.engine import Row, batch_of, compose, gradients, make_worker, settings, single_rank_environment
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.world import family, reference
from benchmarks.world.config import TrainConfig
from benchmarks.world.records import Step
from sd_search_verl.config import SDSearchConfig
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs, build_teacher_inputs
from sd_search_verl.objectives.information_gain import build_gain_inputs
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.verl_adapter.actor.gain import pack_gain
from sd_search_verl.verl_adapter.fields import nested
from sd_search_verl.world import World, WorldConfig, questions
from sd_search_verl.world.config import CHECKPOINT
from sd_search_verl.world.sampling import rollouts
from sd_search_verl.world.text import PROTOCOL

TOKENIZER = AutoTokenizer.from_pretrained(CHECKPOINT)
WORLD = World(WorldConfig(seed=3))
CONFIG = TrainConfig()
ALPHA = 0.7


def policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)


@pytest.fixture(scope="module")
def batch() -> list[Rollout]:
    """Four groups of real rollouts; at least one of them is mixed."""
    asked = [question for question in questions(WORLD, "train")[:4] for _ in range(CONFIG.group)]
    sampled = rollouts(policy(), TOKENIZER, WORLD, asked, seed=7)
    assert 0 < sum(rollout.f1 for rollout in sampled) < len(sampled)
    return sampled


@pytest.fixture(scope="module")
def worker() -> Any:
    single_rank_environment()
    return make_worker(compose(CHECKPOINT))


@pytest.fixture(scope="module")
def old_log_probs(batch: list[Rollout]) -> list[list[float]]:
    """Of a policy that has moved, so that both sides of the clip are active."""
    with torch.no_grad():
        rows = [rollout.prompt.token_ids + rollout.response_ids for rollout in batch]
        moved = reference.policy_log_probs(reference.forward(policy(), rows), batch)
    moved += torch.randn(len(moved), generator=torch.Generator().manual_seed(1))
    written = iter(moved.tolist())
    return [[next(written) if wrote else 0.0 for wrote in rollout.response_mask] for rollout in batch]


def inputs_of(batch: list[Rollout], method: SDSearchConfig) -> list[TeacherInputs]:
    return build_teacher_inputs(
        batch, method, TOKENIZER, lambda messages: encode_messages(messages, TOKENIZER), seed=1
    )


@pytest.mark.parametrize(
    ("changes", "alpha"),
    [
        ({}, ALPHA),
        ({"top_k": None}, ALPHA),
        ({"positions": "response", "divergence": "forward_kl"}, ALPHA),
        ({"hindsight": {"content": "current_documents"}}, ALPHA),
        ({"weighting": "group_variance", "hindsight": {"labels": "shuffled", "group": "own"}}, ALPHA),
        ({"target": "uniform"}, ALPHA),
        ({}, 0.0),
        # Other methods of the family.
        ({"gate": "sigmoid"}, ALPHA),
        ({"gate": "labels"}, ALPHA),
        ({"target": "contrast"}, ALPHA),
        ({"regularizer": "llds"}, 0.0),
        ({"regularizer": "sapo", "gate": "sigmoid"}, ALPHA),
        ({"regularizer": "llds_response", "information_gain": 0.3}, 0.0),
        ({"use": "advantage"}, ALPHA),
    ],
    ids=str,
)
def test_the_worker_computes_the_references_losses_and_gradients(
    worker: Any,
    batch: list[Rollout],
    old_log_probs: list[list[float]],
    changes: dict[str, Any],
    alpha: float,
) -> None:
    method, model = settings(**changes), policy()
    inputs = inputs_of(batch, method)
    advantages = reference.grpo_advantages(torch.tensor([rollout.f1 for rollout in batch]), CONFIG.group)
    at_tokens = reference.per_token(advantages, batch)
    gain = build_gain_inputs(batch, TOKENIZER, PROTOCOL, seed=1)
    if method.information_gain:
        read_by = partial(reference.forward, model)
        at_tokens = at_tokens + family.information_gain(read_by, TOKENIZER, batch, method, seed=1)
        assert any(item.rows for item in gain)
    taught = flipped = None
    if alpha:
        width = max(map(len, reference.token_rows(batch)))
        taught = reference.teacher_pass(model, inputs, width)
        flipped = reference.teacher_pass(model, [replace(item, rows=item.flipped) for item in inputs], width)
    rows = [torch.tensor(row) for row in old_log_probs]
    old = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[family.policy_mask(batch)]
    losses = reference.mini_batch(
        model, batch, inputs, at_tokens, old, taught, flipped, alpha, method, CONFIG
    )
    (losses.policy + alpha * losses.sd if method.use == "loss" else losses.policy).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}

    worker.loss_fn.config = method
    data = batch_of(
        [
            Row(rollout, float(advantage), before)
            for rollout, advantage, before in zip(batch, advantages, old_log_probs, strict=True)
        ],
        inputs if alpha else None,
        alpha,
    )
    packed = [pack_gain(item) for item in gain]
    for name in packed[0]:
        data[name] = nested([fields[name] for fields in packed])
    ours, metrics = gradients(worker, data)

    assert relative_difference(ours, expected) < 1e-5
    assert abs(grpo := float(losses.grpo.detach())) > 1e-2
    assert sum(metrics["actor/pg_loss"]) == pytest.approx(grpo, rel=1e-5)
    assert sum(metrics["actor/pg_clipfrac"]) > 0
    if alpha:
        assert (sd := float(losses.sd.detach())) > 1e-3
        if method.use == "loss":  # fp32 log-probs
            assert float(metrics["sd_search/loss"][0]) == pytest.approx(sd, rel=1e-5, abs=2e-7)


def naive_grpo(
    log_probs: list[float], old: list[float], advantages: list[float], clip: float, c: float
) -> float:
    total = 0.0
    for new, before, advantage in zip(log_probs, old, advantages, strict=True):
        ratio = math.exp(new - before)
        surrogate = min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage)
        total -= max(surrogate, c * advantage) if advantage < 0 else surrogate
    return total / len(log_probs)


def test_the_grpo_loss_is_ppos_with_dual_clip() -> None:
    draw = torch.Generator().manual_seed(0)
    new, old, advantages = (torch.randn(200, generator=draw) for _ in range(3))
    expected = naive_grpo(new.tolist(), old.tolist(), advantages.tolist(), 0.2, 3.0)
    assert float(reference.grpo_loss(new, old, advantages, CONFIG)) == pytest.approx(expected, rel=1e-5)


def test_advantages_are_verls() -> None:
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rewards = torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 0, 0, 0])
    theirs, _ = compute_grpo_outcome_advantage(rewards[:, None].clone(), torch.ones(10, 1), [0] * 5 + [1] * 5)
    assert torch.allclose(reference.grpo_advantages(rewards, 5), theirs[:, 0])


def trained(method: SDSearchConfig, steps: int) -> tuple[dict[str, torch.Tensor], list[Step]]:
    model, seen = policy(), []
    config = TrainConfig(seed=1, steps=steps)
    reference.train(model, TOKENIZER, World(WorldConfig(seed=1)), method, config, seen.append)
    return dict(model.named_parameters()), seen


def test_an_empty_block_is_grpo_to_the_last_bit() -> None:
    plain, grpo = trained(settings(alpha=0.0), steps=4)
    nothing = settings(alpha=0.3, warmup_steps=0, top_k=None, hindsight={"content": "none"})
    weights, empty = trained(nothing, steps=4)
    assert all(step.teacher_logits is not None and step.losses[1] == 0 for step in empty)
    assert [step.losses[0] for step in empty] == [step.losses[0] for step in grpo]
    start = dict(policy().named_parameters())
    assert max(float((plain[name] - start[name]).abs().max()) for name in start) > 1e-3
    assert all(torch.equal(plain[name], weights[name]) for name in start)


def test_alpha_waits_for_the_warm_up() -> None:
    _, steps = trained(settings(alpha=0.3, warmup_steps=2, top_k=None), steps=3)
    assert [step.teacher_logits is None for step in steps] == [True, True, False]
    assert steps[2].losses[1] > 0
