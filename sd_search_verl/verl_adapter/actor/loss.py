"""L = L_GRPO + alpha * L_SD as verl's loss function, with verl's hook that computes L_SD while the logits exist.

The switches that change either term act here: regularizer and gate add to or weigh the loss, ``use=advantage`` scales
the advantages that verl's loss reads, in place of the second term.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.divergence import divergence_and_stats
from sd_search_verl.distill.loss import sd_loss
from sd_search_verl.distill.select_rows import select_rows
from sd_search_verl.distill.support import TeacherTargets, teacher_targets
from sd_search_verl.objectives.advantage import advantage_factors
from sd_search_verl.objectives.gate import gated
from sd_search_verl.objectives.regularizer import penalties
from sd_search_verl.objectives.turns import row_numbers, turn_numbers
from sd_search_verl.verl_adapter.actor.credit import CreditRecord
from sd_search_verl.verl_adapter.actor.packed import SequenceShard, packed_positions, positions_in_shard
from sd_search_verl.verl_adapter.actor.policy_tokens import PolicyTokens, with_advantages
from sd_search_verl.verl_adapter.fields import SLOTS

PREFIX = "sd_search/"


@dataclass(frozen=True)
class SDLossInputs:
    """Inputs of one mini-batch's L_SD.

    Attributes:
        targets: the teacher at this rank's scored positions, in slot order.
        positions: index of each slot in its row of the student's tokens, see :func:`~.fields.by_slot`.
        weights: ``[num_slots]`` weight of each scored token in L_SD.
        num_trajectories: with scored tokens, over all ranks.
        num_tokens: scored tokens over all ranks.
        credit: receives the credit of each position; None if nothing reads it.
        policy_weight: factor of verl's own loss, regularizer included; 0 leaves alpha * L_SD alone.
    """

    targets: TeacherTargets
    positions: Tensor
    weights: Tensor
    alpha: float
    num_trajectories: int
    num_tokens: int
    credit: CreditRecord | None = None
    policy_weight: float = 1.0


class SDSearchLoss:
    """Wraps verl's policy loss.

    verl calls it twice per micro-batch: first with the student's logits, while they exist, then with the model's
    outputs. Outside of :meth:`with_teacher` it is the wrapped loss and nothing else.
    """

    def __init__(self, base: Callable[..., Any], config: SDSearchConfig) -> None:
        self.base = base
        self.config = config
        self._teacher: SDLossInputs | None = None

    @contextmanager
    def with_teacher(self, teacher: SDLossInputs) -> Iterator[None]:
        """Add the distillation term while the context lasts."""
        self._teacher = teacher
        try:
            yield
        finally:
            self._teacher = None

    def __call__(
        self,
        model_output: dict[str, Tensor] | None = None,
        data: TensorDict | None = None,
        dp_group: Any = None,
        student_logits: Tensor | None = None,
        **_: Any,
    ) -> Any:
        if student_logits is not None:
            assert self._teacher is not None
            assert data is not None
            return self._on_logits(student_logits, data, self._teacher)
        teacher, scaled = self._teacher, data
        if teacher is not None and self.config.use == "advantage":
            scaled = self._scale_advantages(model_output, data, teacher.alpha)
        loss, metrics = self.base(model_output=model_output, data=scaled, dp_group=dp_group)
        if self.config.regularizer != "none":
            loss, metrics = self._regularize(loss, metrics, model_output, scaled)
        if teacher is None:
            return loss, metrics
        return self._add_sd_loss(loss, metrics, model_output, data, teacher)

    def _scale_advantages(self, output: Any, data: Any, alpha: float) -> TensorDict:
        tokens = PolicyTokens.of(output, data)
        credit, weight = (no_padding_2_padding(output[f"sd_{name}"], data) for name in ("credit", "weight"))
        factors = advantage_factors(
            tokens.advantages,
            credit[tokens.mask],
            weight[tokens.mask] > 0,
            turn_numbers(tokens.mask),
            alpha,
            self.config.factor_bound,
        )
        return with_advantages(data, tokens.mask, tokens.advantages * factors)

    def _regularize(
        self, loss: Tensor, metrics: dict[str, Any], output: Any, data: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        tokens = PolicyTokens.of(output, data)
        units = row_numbers if self.config.regularizer == "llds_response" else turn_numbers
        values = penalties(
            self.config.regularizer, tokens.log_probs, tokens.old, tokens.advantages, units(tokens.mask)
        )
        part = values.sum() * data["dp_size"] / data["batch_num_tokens"]
        metric = Metric(AggregationType.SUM, part.detach())
        return loss + self.config.regularizer_coef * part, {**metrics, f"{PREFIX}regularizer": metric}

    def _on_logits(self, logits: Tensor, data: TensorDict, teacher: SDLossInputs) -> dict[str, Tensor]:
        """Return per-token values ``[1, n]`` for logits ``[1, n, V]``, zero outside the scored positions.

        With sequence parallelism the logits are this rank's shard; verl gathers the returned values.
        """
        tokens = data["input_ids"].values()
        shard = SequenceShard.of(len(tokens))
        index, slots = positions_in_shard(data, teacher.positions, shard)
        if self.config.use == "advantage":
            logits = logits.detach()  # no L_SD
        student = select_rows(logits, index - shard.start)
        targets = self._replace_target(teacher.targets.map(lambda rows: rows.index_select(0, slots)), student)
        values, stats = divergence_and_stats(student, targets, self.config, tokens[index + 1])
        assert targets.token_log_prob is not None
        credit, labelled = targets.token_log_prob - stats.token_log_prob, None
        if targets.flipped_log_prob is not None:
            labelled = (targets.token_log_prob - targets.flipped_log_prob) / 2
        columns = {
            "divergence": values,
            "weight": gated(teacher.weights[slots], credit, self.config, labelled),
            "credit": credit,
            "teacher_entropy": targets.entropy,
            "student_entropy": stats.entropy,
            "top_k_mass": targets.top_k_mass,
            "teacher_student_top1": stats.top1_agrees,
        }
        length = logits.shape[1]
        return {
            f"sd_{name}": _scatter(column, index - shard.start, length) for name, column in columns.items()
        }

    def _replace_target(self, targets: TeacherTargets, student: Tensor) -> TeacherTargets:
        """Return what the student is pulled to: the teacher, the student tilted by what the labels say (see
        :func:`~sd_search_verl.verl_adapter.actor.labels.contrast`), or the uniform distribution, without top-k."""
        if self.config.target == "teacher":
            return targets
        if self.config.target == "contrast":
            assert targets.logits is not None
            target = teacher_targets(student.detach().float() + targets.logits, self.config)
        else:
            uniform = teacher_targets(student.new_zeros(1, student.shape[1]), self.config.replace(top_k=None))
            target = uniform.map(lambda rows: rows.expand(len(student), *rows.shape[1:]))
        # Metrics and credit speak of the teacher; ``top_k_mass`` of the entries that are compared.
        return replace(
            target, entropy=targets.entropy, top1=targets.top1, token_log_prob=targets.token_log_prob
        )

    def _add_sd_loss(
        self,
        loss: Tensor,
        metrics: dict[str, Any],
        output: Any,
        data: Any,
        teacher: SDLossInputs,
    ) -> tuple[Tensor, dict[str, Any]]:
        columns = {
            name: output[f"sd_{name}"].values() for name in ("divergence", "weight", "credit", *_MEANS)
        }
        if teacher.credit is not None:
            index = packed_positions(data, teacher.positions)
            credit, divergence = columns["credit"][index], columns["divergence"][index]
            teacher.credit.add(data[SLOTS].values(), credit, divergence)
        # verl averages gradients and SUM metrics over ranks; times dp_size turns both averages into sums.
        dp_size = data["dp_size"]
        part = sd_loss(columns["divergence"], columns["weight"], teacher.num_trajectories) * dp_size
        means = {
            name: columns[column].detach().sum() * dp_size / teacher.num_tokens
            for column, name in _MEANS.items()
        }
        values = {
            **({"loss": part.detach()} if self.config.use == "loss" else {}),
            **means,
            "entropy_gap": means["student_entropy"] - means["teacher_entropy"],
        }
        numbers = torch.stack([value.float() for value in values.values()]).tolist()  # one copy to the host
        ours = {
            PREFIX + name: Metric(AggregationType.SUM, number)
            for name, number in zip(values, numbers, strict=True)
        }
        total = teacher.policy_weight * loss
        if self.config.use == "loss":
            total = total + teacher.alpha * part
        return total, {**metrics, **ours}


_MEANS = {
    "divergence": "jsd",
    "teacher_entropy": "teacher_entropy",
    "student_entropy": "student_entropy",
    "top_k_mass": "top_k_mass",
    "teacher_student_top1": "teacher_student_top1",
}
"""Column of the hook, and the metric that is its mean over scored tokens."""
TOKEN_MEANS = tuple(PREFIX + name for name in (*_MEANS.values(), "entropy_gap"))
"""Metrics that are means over scored tokens."""


def pool_mini_batches(metrics: dict[str, Any], tokens: Sequence[int], mini_batches: int) -> None:
    """Replace what verl would make a mean over the mini-batches with scored tokens.

    What is a mean over scored tokens becomes that over the tokens of all. L_SD becomes the mean over all mini-batches,
    as the policy loss is; it is 0 in those without scored tokens.

    Args:
        metrics: values by metric, one of each mini-batch with scored tokens; changed in place.
        tokens: scored tokens of each such mini-batch.
        mini_batches: number of all, those without scored tokens too.
    """
    if (losses := metrics.get(f"{PREFIX}loss")) is not None:
        metrics[f"{PREFIX}loss"] = [sum(losses) / mini_batches]
    for name in TOKEN_MEANS:
        if name in metrics:
            pairs = zip(metrics[name], tokens, strict=True)
            metrics[name] = [sum(mean * count for mean, count in pairs) / sum(tokens)]


def _scatter(values: Tensor, index: Tensor, length: int) -> Tensor:
    """Return ``[1, length]``, the shape verl's hook returns, with ``values`` at ``index`` and zeros elsewhere."""
    return (
        torch.zeros(length, dtype=values.dtype, device=values.device)
        .index_copy(0, index, values)
        .unsqueeze(0)
    )
