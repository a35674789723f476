"""L_SD in plain PyTorch, one row at a time, on a Hugging Face model; shares no code with the package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def naive_divergence(
    student: Tensor, teacher: Tensor, kind: str, top_k: int | None, support: str, tail: str
) -> Tensor:
    """One position: ``[V]`` logits each."""
    q_all, p_all = torch.softmax(student.double(), -1), torch.softmax(teacher.detach().double(), -1)
    size = len(q_all)
    if top_k is None or top_k >= size:
        chosen = list(range(size))
    else:
        chosen = torch.topk(p_all, top_k).indices.tolist()
        if support == "union":
            chosen += [i for i in torch.topk(q_all, top_k).indices.tolist() if i not in chosen]
    p, q = p_all[chosen], q_all[chosen]
    rest = [i for i in range(size) if i not in set(chosen)]
    if rest and tail == "bucket":
        p, q = torch.cat([p, p_all[rest].sum()[None]]), torch.cat([q, q_all[rest].sum()[None]])
    elif rest:
        p, q = p / p.sum(), q / q.sum()

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * torch.log(a / b)).sum()

    if kind == "jsd":
        return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2
    if kind == "forward_kl":
        return kl(p, q)
    if kind == "reverse_kl":
        return kl(q, p)
    assert kind == "mse"
    return ((p - q) ** 2).sum()


def naive_sd_loss(
    model: Any, trajectories: Sequence[dict[str, Any]], uniform: bool = False, **divergence: Any
) -> Tensor:
    """Mean over trajectories with query tokens of the mean over their query tokens.

    Each trajectory: ``student`` and ``teacher`` token lists, and ``tokens``: pairs of (index of the scored token in
    student, the same in teacher); optional ``weight``.
    """
    if uniform:  # its largest entries are no choice
        divergence["top_k"] = None
    terms = []
    for trajectory in trajectories:
        if not trajectory["tokens"]:
            continue
        student = model(torch.tensor([trajectory["student"]])).logits[0]
        values = []
        for number, (teacher_ids, pairs) in enumerate(trajectory["tokens"]):
            with torch.no_grad():
                teacher = model(torch.tensor([teacher_ids])).logits[0]
            if uniform:
                teacher = torch.zeros_like(teacher)
            if trajectory.get("flipped"):  # contrast: the student tilted by true against inverted labels
                other_ids = trajectory["flipped"][number]
                with torch.no_grad():
                    other = model(torch.tensor([other_ids])).logits[0]
                for at_student, at_teacher in pairs:
                    at_other = at_teacher + len(other_ids) - len(teacher_ids)
                    teacher[at_teacher - 1] += student[at_student - 1].detach() - other[at_other - 1]
            for at_student, at_teacher in pairs:
                assert trajectory["student"][at_student] == teacher_ids[at_teacher]
                values.append(
                    naive_divergence(student[at_student - 1], teacher[at_teacher - 1], **divergence)
                )
        terms.append(trajectory.get("weight", 1.0) * sum(values) / len(values))
    assert all(math.isfinite(float(term)) for term in terms)
    return sum(terms) / len(terms)
