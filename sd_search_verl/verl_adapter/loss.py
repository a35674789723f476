"""L = L_GRPO + alpha * L_SD as verl's loss function, and the hook that computes L_SD where the logits live."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils.metric import AggregationType, Metric

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.credit import token_log_probs
from sd_search_verl.distill.loss import sd_loss
from sd_search_verl.distill.targets import Targets, diagnostics, divergence_to, keep
from sd_search_verl.verl_adapter.credit import CreditRecord
from sd_search_verl.verl_adapter.teacher_pass import packed_index

PREFIX = "sd_search/"


@dataclass(frozen=True)
class Teacher:
    """What one mini-batch's loss needs: the teacher at N scored positions, and the counts over all ranks.

    ``credit`` takes what the loss finds at each position; None where no trajectory is traced.
    """

    targets: Targets
    alpha: float
    num_trajectories: int
    num_tokens: int
    credit: CreditRecord | None = None


class SDSearchLoss:
    """Wraps verl's policy loss.

    verl calls it twice per micro-batch: first with the student's logits, while they exist, then with the model's
    outputs. Outside of :meth:`teaching` it is the wrapped loss and nothing else.
    """

    def __init__(self, base: Callable[..., Any], config: SDSearchConfig) -> None:
        self.base = base
        self.config = config
        self._teacher: Teacher | None = None

    @contextmanager
    def teaching(self, teacher: Teacher) -> Iterator[None]:
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
            return self._compare(student_logits.squeeze(0), data, self._teacher)
        loss, metrics = self.base(model_output=model_output, data=data, dp_group=dp_group)
        if self._teacher is None:
            return loss, metrics
        assert model_output is not None
        assert data is not None
        return self._add(loss, metrics, model_output, data, self._teacher)

    def _compare(self, logits: Tensor, data: TensorDict, teacher: Teacher) -> dict[str, Tensor]:
        """Per-token values ``[1, nnz]``, zero outside the scored positions."""
        index, slots = packed_index(data, "sd_student_positions", "sd_slots")
        # A copy of the query rows: verl's cross entropy may overwrite the logits themselves in its backward.
        student = logits.index_select(0, index)
        config = self.config
        if config.target == "uniform":
            targets = keep(torch.zeros_like(student), config.top_k, config.support, config.tail)
        else:
            targets = {name: rows.index_select(0, slots) for name, rows in teacher.targets.items()}
        values = divergence_to(targets, student, config.divergence, config.top_k, config.support, config.tail)
        if teacher.credit is not None:
            tokens = data["input_ids"].values()[index + 1]
            log_p = teacher.targets["token_log_p"].index_select(0, slots)
            teacher.credit.add(slots, log_p - token_log_probs(student, tokens), values)
        columns = {"divergence": values, **diagnostics(targets, student, config.top_k)}
        return {f"sd_{name}": _scatter(column, index, logits.shape[0]) for name, column in columns.items()}

    def _add(
        self,
        loss: Tensor,
        metrics: dict[str, Any],
        output: dict[str, Tensor],
        data: TensorDict,
        teacher: Teacher,
    ) -> tuple[Tensor, dict[str, Any]]:
        index, weights = packed_index(data, "sd_student_positions", "sd_token_weights")
        columns = {name: output[f"sd_{name}"].values()[index] for name in _COLUMNS}
        # verl averages gradients and SUM metrics over ranks; times dp_size turns both averages into sums.
        dp_size = data["dp_size"]
        part = sd_loss(columns["divergence"], weights, teacher.num_trajectories) * dp_size
        sums = {
            name: column.detach().sum() * dp_size / teacher.num_tokens for name, column in columns.items()
        }
        values = {
            "loss": part.detach(),
            "jsd": sums["divergence"],
            "teacher_entropy": sums["teacher_entropy"],
            "student_entropy": sums["student_entropy"],
            "entropy_gap": sums["student_entropy"] - sums["teacher_entropy"],
            "top_k_mass": sums["top_k_mass"],
            "teacher_student_top1": sums["teacher_student_top1"],
        }
        ours = {PREFIX + name: Metric(AggregationType.SUM, value.float()) for name, value in values.items()}
        return loss + teacher.alpha * part, {**metrics, **ours}


_COLUMNS = ("divergence", "teacher_entropy", "student_entropy", "top_k_mass", "teacher_student_top1")


def _scatter(values: Tensor, index: Tensor, length: int) -> Tensor:
    """``values`` at ``index`` of an otherwise zero ``[1, length]``, the shape verl's hook returns."""
    return (
        torch.zeros(length, dtype=values.dtype, device=values.device)
        .index_copy(0, index, values)
        .unsqueeze(0)
    )
