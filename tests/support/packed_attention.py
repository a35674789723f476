"""Attention over packed rows on a CPU, where flash-attention has no kernel; everything around the kernel is real.

``attn_implementation=packed_cpu`` takes Hugging Face's flash-attention path, and with it verl's Ulysses exchange of
heads and sequence.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import verl.models.transformers.monkey_patch as verl_patch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations import flash_attention

NAME = "packed_cpu"


def install() -> None:
    """Register the attention, and put the kernel where verl calls flash-attention's."""
    AttentionInterface.register(NAME, flash_attention.flash_attention_forward)
    verl_patch._flash_attention_forward = _kernel


def _kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    position_ids: Tensor,
    softmax_scale: float,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **__: Any,
) -> Tensor:
    """``[1, n, heads, d]`` each; a row starts where its bounds say, or else where its position is 0."""
    row = (position_ids == 0).cumsum(-1)[0]
    if cu_seq_lens_q is not None:
        assert cu_seq_lens_q.dtype == torch.int32  # what flash-attention's kernels take
        assert max_length_q == int(cu_seq_lens_q.diff().max())
        row = torch.bucketize(torch.arange(len(row), device=row.device), cu_seq_lens_q, right=True)
    mask = (row[:, None] == row[None, :]).tril()
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=softmax_scale, enable_gqa=True
    )
    return out.transpose(1, 2)
