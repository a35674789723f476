"""The whole loss with every switch, in loops over rollouts and tokens; shares no formula with the package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs
from sd_search_verl.objectives.information_gain import GainInputs, build_gain_inputs
from sd_search_verl.protocol import get
from support.agreement import ALPHA
from support.engine import Row, batch_of, recorded_rows, teacher_inputs
from support.reference import naive_divergence
from support.tiny import byte_tokenizer

CASES: dict[str, tuple[float, dict[str, Any]]] = {
    "llds": (0.0, {"regularizer": "llds"}),
    "llds_response": (0.0, {"regularizer": "llds_response", "regularizer_coef": 0.5}),
    "sapo": (0.0, {"regularizer": "sapo"}),
    "gate": (ALPHA, {"gate": "sigmoid", "gate_beta": 3.0}),
    "gate of labels": (ALPHA, {"gate": "labels"}),
    "advantage": (0.9, {"use": "advantage"}),
    "information gain": (0.0, {"information_gain": 30.0}),
    "best sibling": (ALPHA, {"hindsight": {"group": "best_sibling"}}),
    "together": (ALPHA, {"gate": "sigmoid", "regularizer": "llds", "information_gain": 30.0}),
    "advantage together": (0.9, {"use": "advantage", "regularizer": "sapo", "information_gain": 30.0}),
}
"""Name -> alpha and what is changed in the config."""


def rows_with_answers(network: Any, groups: int = 2, size: int = 4) -> list[Row]:
    """Recorded rollouts with golden answers, advantages of both signs and 0, and old log-probs near the policy's."""
    rows = recorded_rows(byte_tokenizer(), groups=groups, size=size, seed=5)
    draw = torch.Generator().manual_seed(3)
    for number, row in enumerate(rows):
        prompt = replace(row.rollout.prompt, golden_answers=[f"GOLD{number // size}"])
        row.rollout = replace(row.rollout, prompt=prompt)
        row.advantage = [1.3, -0.7, 0.0][number % 3]
        with torch.no_grad():
            exact = response_log_probs(network, row)
        row.old_log_probs = (exact + 0.3 * torch.randn(len(exact), generator=draw)).tolist()
    return rows


def gain_inputs(rows: Sequence[Row]) -> list[GainInputs]:
    """What the trainer prepares for these rows."""
    return build_gain_inputs([row.rollout for row in rows], byte_tokenizer(), get("search_r1"), seed=1)


def method_batch(
    rows: Sequence[Row], config: SDSearchConfig, alpha: float, share: slice = slice(None), **options: Any
) -> Any:
    """The worker's batch for these rows with all fields that a method needs; ``share`` is a rank's part."""
    from sd_search_verl.verl_adapter.actor.gain import pack_gain
    from sd_search_verl.verl_adapter.fields import nested

    inputs = teacher_inputs(rows, config, byte_tokenizer()) if alpha else None
    batch = batch_of(rows[share], None if inputs is None else inputs[share], alpha, **options)
    if config.information_gain:
        packed = [pack_gain(item) for item in gain_inputs(rows)[share]]
        for name in packed[0]:
            batch[name] = nested([fields[name] for fields in packed])
    return batch


def response_log_probs(network: Any, row: Row) -> Tensor:
    """Log-probs of every response token, ``[T]``."""
    prompt, response = row.rollout.prompt.token_ids, row.rollout.response_ids
    logits = network(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    return torch.stack([logits[len(prompt) + i - 1, token] for i, token in enumerate(response)])


def turns_of(mask: Sequence[int]) -> list[list[int]]:
    """Response indices of each run of policy tokens."""
    found: list[list[int]] = []
    for at, wrote in enumerate(mask):
        if wrote and (at == 0 or not mask[at - 1]):
            found.append([])
        if wrote:
            found[-1].append(at)
    return found


def naive_loss(
    network: Any,
    rows: Sequence[Row],
    config: SDSearchConfig,
    alpha: float,
    teacher: Any = None,
    policy_weight: float = 1.0,
) -> Tensor:
    """``policy_weight * (L_GRPO + regularizer) + alpha * L_SD`` of the rows."""
    teacher = network if teacher is None else teacher
    inputs = teacher_inputs(rows, config, byte_tokenizer())
    gained = gain_inputs(rows) if config.information_gain else [GainInputs([], [], [])] * len(rows)
    num_tokens = sum(sum(row.rollout.response_mask) for row in rows)
    policy, distilled = torch.zeros(()), []
    for row, item, gain in zip(rows, inputs, gained, strict=True):
        log_probs, mask = response_log_probs(network, row), row.rollout.response_mask
        advantages = [row.advantage] * len(mask)
        for (first, end), amount in zip(gain.spans, naive_gains(network, gain), strict=True):
            for at in range(first, end):
                advantages[at] += config.information_gain * amount / (end - first)
        if alpha:
            terms, gaps = naive_teacher(network, teacher, row, item, config)
            if config.use == "loss":
                distilled += [sum(terms) / len(terms)] if terms else []
            else:
                scale(advantages, turns_of(mask), gaps, alpha, config.factor_bound)
        for at in [at for at, wrote in enumerate(mask) if wrote]:
            policy = policy + naive_ppo(log_probs[at], row.old_log_probs[at], advantages[at]) / num_tokens
        units = turns_of(mask)
        if config.regularizer == "llds_response":
            units = [[at for unit in units for at in unit]]
        if config.regularizer != "none":
            total = naive_penalty(config.regularizer, units, log_probs, row.old_log_probs, advantages)
            policy = policy + config.regularizer_coef * total / num_tokens
    return policy_weight * policy + (alpha * sum(distilled) / len(distilled) if distilled else 0.0)


def naive_ppo(log_prob: Tensor, old: float, advantage: float, clip: float = 0.2, c: float = 3.0) -> Tensor:
    ratio = torch.exp(log_prob - old)
    loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))
    return torch.min(loss, torch.tensor(-advantage * c)) if advantage < 0 else loss


def naive_penalty(
    kind: str, units: list[list[int]], log_probs: Tensor, old: Sequence[float], advantages: Sequence[float]
) -> Tensor:
    total = torch.zeros(())
    for unit in units:
        good = [at for at in unit if advantages[at] >= 0]
        drops = {at: old[at] - log_probs[at] for at in good}
        if kind == "sapo":
            total = total + sum(d for d in drops.values() if math.exp(-float(d)) <= 0.8)
        elif sum(float(d) for d in drops.values()) > 0:
            total = total + sum(d for d in drops.values() if d > 0)
    return total


def naive_teacher(
    network: Any, teacher: Any, row: Row, item: TeacherInputs, config: SDSearchConfig
) -> tuple[list[Tensor], dict[int, float]]:
    """Gated divergences of a rollout's scored tokens, and the gap of each by response index."""
    ids = row.rollout.prompt.token_ids + row.rollout.response_ids
    student = network(torch.tensor([ids])).logits[0]
    terms, gaps = [], {}
    for number, r in enumerate(item.rows):
        with torch.no_grad():
            taught = teacher(torch.tensor([r.input_ids])).logits[0]
            if config.gate == "labels":
                inverted = item.flipped[number]
                other = teacher(torch.tensor([inverted.input_ids])).logits[0][inverted.teacher_positions]
        for place, (s, t) in enumerate(zip(r.student_positions, r.teacher_positions, strict=True)):
            token = ids[s + 1]
            gap = float(taught[t].log_softmax(-1)[token] - student[s].detach().log_softmax(-1)[token])
            gaps[s + 1 - len(row.rollout.prompt.token_ids)] = gap
            value = naive_divergence(
                student[s], taught[t], config.divergence, config.top_k, config.support, config.tail
            )
            gate = 1 / (1 + math.exp(-config.gate_beta * gap)) if config.gate == "sigmoid" else 1.0
            if config.gate == "labels":
                turned = taught[t].log_softmax(-1)[token] - other[place].log_softmax(-1)[token]
                gate = abs(float(turned)) / (abs(float(turned)) + abs(2 * gap - float(turned)))
            terms.append(value * gate)
    return terms, gaps


def scale(
    advantages: list[float], turns: list[list[int]], gaps: dict[int, float], alpha: float, bound: float
) -> None:
    for turn in turns:
        scored = [gaps[at] for at in turn if at in gaps]
        for at in turn if scored else []:
            sign = (advantages[at] > 0) - (advantages[at] < 0)
            weight = min(max(math.exp(sign * sum(scored) / len(scored)), 1 - bound), 1 + bound)
            advantages[at] *= 1 + alpha * (weight - 1)


@torch.no_grad()
def naive_gains(network: Any, gain: GainInputs) -> list[float]:
    """The shaped information gain of each search, one row at a time."""
    means = []
    for ids, positions in zip(gain.rows, gain.positions, strict=True):
        log_probs = network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        means.append(sum(float(log_probs[at, ids[at + 1]]) for at in positions) / len(positions))
    found = []
    for search in range(len(gain.spans)):
        own, *others = means[4 * search : 4 * search + 4]
        amount = own - sum(others) / 3
        found.append(math.log(1 + abs(amount)) * (1 if amount > 0 else -1))
    return found


def naive_gradients(network: Any, *arguments: Any, **options: Any) -> dict[str, Tensor]:
    """Gradients of :func:`naive_loss`."""
    network.zero_grad()
    naive_loss(network, *arguments, **options).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters()}
