"""What training without flash-attn costs, by counting: kernels and memory of verl's log-probs, and the attention mask.

Counts do not depend on the device. Times of the two attentions are the CPU's: packed rows read a dense mask of all
pairs, padded rows do not. Usage: ``python -m benchmarks.cost.without_flash_attention``; appends rows to ``--out``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.arguments import add_option, command_parser
from benchmarks.machine import device_name
from benchmarks.table import append_rows

VOCABULARY = 151_936
HEADS, HEAD_DIM = 16, 128
ROW, PADDED_TO = 560, 1_064
"""Tokens of a recorded rollout: median, and the longest of 2,000."""

Row = tuple[str, int, str, float]


class Kernels(TorchDispatchMode):
    """Count the operations that write a tensor of their own; each is at least one kernel launch on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def log_prob_cost(rows: int) -> tuple[int, int]:
    """Return operations forward and backward, and bytes saved for the backward beside the logits.

    The log-softmax is bf16 here; CUDA's autocast makes it fp32, which saves twice the bytes.
    """
    from verl.utils.torch_functional import logprobs_from_logits_v2

    logits = torch.randn(rows, VOCABULARY, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.randint(VOCABULARY, (rows,))
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        Kernels() as kernels,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        log_probs = logprobs_from_logits_v2(logits, labels)
    with kernels:
        log_probs.float().sum().backward()
    saved.pop(logits.untyped_storage().data_ptr(), None)
    return kernels.count, sum(saved.values())


def attention_seconds(tokens: int, repeats: int) -> tuple[float, float]:
    """Return median seconds of sdpa over packed rows with a dense mask, and over the same rows padded."""
    rows = tokens // ROW

    def made(batch: int, length: int) -> Tensor:
        return torch.randn(batch, HEADS, length, HEAD_DIM, dtype=torch.bfloat16)

    packed, padded = made(1, rows * ROW), made(rows, PADDED_TO)
    document = torch.arange(rows).repeat_interleave(ROW)
    mask = (document[:, None] == document[None]).tril()
    found: tuple[list[float], list[float]] = [], []
    for _ in range(repeats):
        for times, run in zip(found, _attentions(packed, padded, mask), strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return statistics.median(found[0]), statistics.median(found[1])


def _attentions(packed: Tensor, padded: Tensor, mask: Tensor) -> Iterator[Callable[[], Tensor]]:
    yield lambda: scaled_dot_product_attention(packed, packed, packed, attn_mask=mask)
    yield lambda: scaled_dot_product_attention(padded, padded, padded, is_causal=True)


def measure(counted_rows: int, repeats: int) -> Iterator[Row]:
    """Yield (quantity, tokens of a micro-batch, unit, value); counts of ``counted_rows`` are scaled to the tokens."""
    operations, saved = log_prob_cost(counted_rows)
    for tokens in (16_384, 4_096):
        scale = tokens / counted_rows
        yield "log-prob operations, forward and backward", tokens, "operations", operations * scale
        yield "saved for the backward beside the logits", tokens, "GB", saved * scale / 1e9
        yield "dense boolean mask of packed rows", tokens, "GB", tokens**2 / 1e9
    for tokens in (4_096, 8_192):
        packed, padded = attention_seconds(tokens, repeats)
        yield "sdpa, packed / padded", tokens, "time ratio", packed / padded


def main() -> None:
    """Measure and append to the CSV."""
    parser = command_parser(__doc__)
    add_option(parser, "--out", Path(__file__).with_suffix(".csv"), "file of the rows")
    add_option(parser, "--rows", 64, "rows of logits that are counted", "ROWS")
    add_option(parser, "--repeats", 5, "repeats of each measurement", "TIMES")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = device_name("cpu")
    for quantity, tokens, unit, value in measure(arguments.rows, arguments.repeats):
        row = {"quantity": quantity, "tokens": tokens, "unit": unit, "value": f"{value:.4g}"}
        append_rows(arguments.out, [row | {"device": device, "torch": torch.__version__}])
        print(f"{quantity:45} {tokens:6} tokens  {value:10.4g} {unit}")


if __name__ == "__main__":
    main()
