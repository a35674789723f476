"""Head, log-probs and SD loss of one packed micro-batch, forward and backward: what the loss takes beside GRPO's.

16,384 tokens of V = 151,936 are more than 2^31 logits. verl's log-probs overwrite the logits with their gradient in the
backward; the gradient through ``select_rows`` is compared with the one through plain indexing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from verl.utils.torch_functional import logprobs_from_logits

from benchmarks.cost.floor import now
from benchmarks.cost.peak import Peak
from benchmarks.gpu.plan import BESIDE, GRADIENT, QUERY_ROWS
from benchmarks.gpu.results import Run
from sd_search_verl.distill.divergence import divergence
from sd_search_verl.distill.select_rows import select_rows

WEIGHT = 100.0
"""Of the SD loss: its rows' gradient then outweighs the other's, and an error in it shows."""

Select = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Inputs:
    """``hidden`` ``[1, n, H]``, ``head`` ``[V, H]``, ``labels`` ``[n]``; of N query rows ``index`` ``[N]`` and
    ``teacher`` logits ``[N, V]``.
    """

    hidden: Tensor
    head: Tensor
    labels: Tensor
    index: Tensor
    teacher: Tensor


@dataclass(frozen=True)
class Measured:
    """Median seconds, peak gigabytes, and the gradients of hidden states and head."""

    seconds: float
    gigabytes: float
    gradients: list[Tensor]


def run(run: Run) -> None:
    """Measure GRPO alone, with selected rows, and with plain indexing, for several counts of query rows."""
    for count in QUERY_ROWS:
        case = f"{count} query rows"
        inputs = _inputs(run, count if run.gpu else count // 60)
        plain = _measure(run, inputs, None)
        ours = _measure(run, inputs, select_rows, WEIGHT * (1 + run.inject_error))
        indexed = _measure(run, inputs, lambda logits, index: logits[0][index])
        errors = [_relative(a, b) for a, b in zip(ours.gradients, indexed.gradients, strict=True)]
        detail = f"GRPO's {1e3 * plain.seconds:.3g} ms; plain indexing {indexed.gigabytes - plain.gigabytes:.3g} GB"
        run.record(case, GRADIENT, max(errors))
        run.record(f"{case}, cost", BESIDE, ours.gigabytes - plain.gigabytes)
        run.record(f"{case}, cost", "ms beside GRPO", 1e3 * (ours.seconds - plain.seconds), detail)


def _inputs(run: Run, rows: int) -> Inputs:
    tokens, hidden, vocab = (16_384, 2048, 151_936) if run.gpu else (128, 16, 2_000)
    dtype = torch.bfloat16 if run.gpu else torch.float32
    draw = torch.Generator(run.device).manual_seed(run.seed)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, device=run.device, generator=draw)

    return Inputs(
        hidden=random(1, tokens, hidden).to(dtype).requires_grad_(),
        head=(2 * random(vocab, hidden) / hidden**0.5).to(dtype).requires_grad_(),
        labels=torch.randint(vocab, (tokens,), device=run.device, generator=draw),
        index=torch.linspace(0, tokens - 1, rows, device=run.device).long(),
        teacher=(3 * random(rows, vocab)).to(dtype),
    )


def _measure(run: Run, inputs: Inputs, select: Select | None, weight: float = WEIGHT) -> Measured:
    seconds, peaks = [], []
    for _ in range(4 if run.gpu else 2):
        inputs.hidden.grad = inputs.head.grad = None
        memory = Peak(run.device)
        before, start = memory.read(), now(run.device)
        _update(run, inputs, select, weight)
        seconds.append(now(run.device) - start)
        peaks.append(memory.read() - before)
    assert inputs.hidden.grad is not None
    assert inputs.head.grad is not None
    gradients = [inputs.hidden.grad.float(), inputs.head.grad.float()]
    return Measured(statistics.median(seconds[1:]), statistics.median(peaks[1:]), gradients)


def _update(run: Run, inputs: Inputs, select: Select | None, weight: float) -> None:
    with torch.autocast(run.device, dtype=torch.bfloat16, enabled=run.gpu):
        logits = (inputs.hidden @ inputs.head.T).squeeze(0)
        loss = torch.zeros((), device=run.device)
        if select is not None:
            picked = select(logits.unsqueeze(0), inputs.index)
            loss = loss + weight * divergence(picked, inputs.teacher).mean()
            del picked
        log_probs = logprobs_from_logits(logits, inputs.labels, inplace_backward=True)
        del logits
        loss = loss - log_probs.mean()
    loss.backward()


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())
