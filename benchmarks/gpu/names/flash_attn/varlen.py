"""``flash_attn_func`` and ``flash_attn_varlen_func``: torch's FlashAttention-2 on a card, one SDPA a row elsewhere."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    deterministic: bool = False,
    **others: Any,
) -> Tensor:
    """Return attention ``[B, n, heads, d]`` for rows of one length."""
    _refuse(dropout_p, others)
    if q.shape[1] != k.shape[1]:
        raise NotImplementedError(f"{q.shape[1]} queries and {k.shape[1]} keys: there is no cache here")
    return _dense(q, k, v, scale=softmax_scale, causal=causal)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    deterministic: bool = False,
    **others: Any,
) -> Tensor:
    """Return attention ``[tokens, heads, d]`` for rows packed one after the other."""
    _refuse(dropout_p, others)
    if not q.is_cuda:
        lengths = cu_seqlens_q.diff().tolist()
        rows = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
        return torch.cat(
            [_dense(*(x[None] for x in row), scale=softmax_scale, causal=causal)[0] for row in rows]
        )
    if not _takes_grouped_heads():
        repeats = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
    bounds = (cu_seqlens_q, cu_seqlens_k, int(max_seqlen_q), int(max_seqlen_k))
    return _kernel(q, k, v, *bounds, softmax_scale, causal)


def _dense(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True).transpose(
        1, 2
    )


def _kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bounds_q: Tensor,
    bounds_k: Tensor,
    max_q: int,
    max_k: int,
    scale: float | None,
    causal: bool,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, 0) if causal else (-1, -1)
    bounds = (bounds_q.to(torch.int32), bounds_k.to(torch.int32), max_q, max_k)
    out = varlen_attn(q, k, v, *bounds, scale=scale, window_size=window)
    assert isinstance(out, Tensor)  # not also the log-sum-exp, which was not asked for
    return out


@lru_cache(maxsize=1)
def _takes_grouped_heads() -> bool:
    """Return whether torch's kernel takes fewer key than query heads, as if repeated; tried once."""
    generator = torch.Generator("cuda").manual_seed(0)
    inputs = [
        torch.randn(
            96, heads, 64, device="cuda", dtype=torch.bfloat16, generator=generator, requires_grad=True
        )
        for heads in (4, 2, 2)
    ]
    bounds = torch.tensor([0, 40, 96], device="cuda", dtype=torch.int32)

    def results(repeat: bool) -> list[Tensor]:
        with torch.enable_grad():
            q, k, v = inputs
            if repeat:
                k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
            out = _kernel(q, k, v, bounds, bounds, 56, 56, None, True)
            return [out, *torch.autograd.grad(out.float().square().sum(), inputs)]

    expected = results(repeat=True)
    try:
        found = results(repeat=False)
    except (RuntimeError, ValueError) as error:
        print(f"keys and values are repeated: torch's kernel refuses grouped heads ({error})", flush=True)
        return False
    worst = max(
        float((a - b).float().norm() / b.float().norm()) for a, b in zip(found, expected, strict=True)
    )
    print(f"torch's kernel with grouped heads: {worst:.1e} relative to repeated heads", flush=True)
    return worst < 2e-2


def _refuse(dropout_p: float, others: dict[str, Any]) -> None:
    window = tuple(others.pop("window_size", (-1, -1)))
    if dropout_p or window != (-1, -1) or any(others.values()):
        raise NotImplementedError(f"dropout {dropout_p}, window {window} or {others}")
