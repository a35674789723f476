"""Triton kernels over rows of logits; :mod:`.fused` runs them and says what they compute.

A program treats one row, or one block of a row. ``tl.exp`` and ``tl.log`` are the GPU's approximations, some 1e-7.
"""

from __future__ import annotations

from typing import Any

try:
    import triton
    import triton.language as tl
    from triton.language.extra import libdevice
except ImportError:  # a torch for CPUs comes without it
    triton = None

available = triton is not None


def _jit(function: Any) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def row_log_probs(
    logits,
    stride,
    index,
    ascending,
    log_probs,
    top1_at,
    entropy_at,
    logsumexp_at,
    tail_log_prob_at,
    highest_at,
    tail_logsumexp_at,
    vocab: tl.constexpr,
    COUNT: tl.constexpr,
    PADDED: tl.constexpr,
    BUCKET: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    top1 = tl.zeros([BLOCK], tl.int32)
    # Of every lane's entries outside the support: the maximum m, sum exp(z - m), sum exp(z - m) (z - m).
    m = tl.full([BLOCK], -1e30, tl.float32)
    s = tl.zeros([BLOCK], tl.float32)
    t = tl.zeros([BLOCK], tl.float32)
    done = 0
    for start in range(0, vocab, BLOCK):
        column = start + lane
        z = tl.load(logits + row * stride + column, mask=column < vocab, other=float("-inf")).to(tl.float32)
        better = z > highest
        top1 = tl.where(better, column, top1)
        highest = tl.where(better, z, highest)
        counts = column < vocab
        if COUNT > 0:
            following = tl.load(ascending + row * COUNT + done, mask=done < COUNT, other=vocab + BLOCK).to(
                tl.int32
            )
            while following < start + BLOCK:
                counts = counts & (column != following)
                done += 1
                following = tl.load(
                    ascending + row * COUNT + done, mask=done < COUNT, other=vocab + BLOCK
                ).to(tl.int32)
        z = finite(z)
        new = tl.where(counts, tl.maximum(m, z), m)
        e = tl.where(counts, tl.exp(z - new), 0.0)
        t = tl.exp(m - new) * (t + s * (m - new)) + tl.where(counts, e * (z - new), 0.0)
        s = tl.exp(m - new) * s + e
        m = new
    best = tl.max(highest)
    most = tl.max(m)
    factor = tl.exp(m - most)
    total = tl.sum(s * factor)
    moment = tl.sum(factor * (t + s * (m - most)))
    empty = total == 0.0  # no entry is outside the support
    total = tl.where(empty, 1.0, total)
    outside = tl.where(empty, -1e30, (most - best) + tl.log(total))
    entropy = tl.log(total) - moment / total
    logsumexp = outside
    if COUNT > 0:
        slot = tl.arange(0, PADDED)
        entry = tl.load(index + row * COUNT + slot, mask=slot < COUNT, other=-1)
        z = tl.load(logits + row * stride + entry, mask=entry >= 0, other=float("-inf")).to(tl.float32)
        chosen = finite(z - best)
        top = tl.max(chosen)
        inside = top + tl.log(tl.sum(tl.where(slot < COUNT, tl.exp(chosen - top), 0.0)))
        logsumexp = tl.maximum(inside, outside) + libdevice.log1p(tl.exp(-tl.abs(inside - outside)))
        tail = outside - logsumexp
        log_q = chosen - logsumexp
        entropy = tl.exp(tail) * (entropy - tail) - tl.sum(tl.exp(log_q) * log_q)
        if BUCKET:
            tl.store(log_probs + row * (COUNT + 1) + slot, log_q, mask=slot < COUNT)
            tl.store(log_probs + row * (COUNT + 1) + COUNT, tail)
        else:
            tl.store(log_probs + row * COUNT + slot, chosen - inside, mask=slot < COUNT)
    tl.store(top1_at + row, tl.min(tl.where(highest == best, top1, vocab - 1)).to(tl.int64))
    tl.store(entropy_at + row, entropy)
    tl.store(logsumexp_at + row, best + logsumexp)
    tl.store(tail_log_prob_at + row, outside - logsumexp)
    tl.store(highest_at + row, best)
    tl.store(tail_logsumexp_at + row, outside)


@_jit
def finite(z):
    """Replace -inf, whose differences are NaN; what is not a number stays."""
    return tl.where(z > -1e30, z, tl.where(z == z, -1e30, z))


@_jit
def terms(log_p, log_q, KIND: tl.constexpr):
    """Return each entry's part of the divergence, and the derivative to its ``log_q``.

    ``KIND`` is the divergence's place in the type ``Divergence`` of the config.
    """
    p = tl.exp(log_p)
    q = tl.exp(log_q)
    if KIND == 0:
        x = log_q - log_p
        t = libdevice.log1p(0.5 * libdevice.expm1(-tl.abs(x)))
        gradient = 0.5 * q * (tl.minimum(x, 0.0) - t)
        term = gradient - 0.5 * p * (tl.maximum(x, 0.0) + t)
    elif KIND == 1:
        gradient = -p
        term = p * (log_p - log_q)
    elif KIND == 2:
        term = q * (log_q - log_p)
        gradient = term + q
    elif KIND == 3:
        gradient = 2.0 * (q - p) * q
        term = (q - p) * (q - p)
    else:
        tl.static_assert(False, "a divergence without a branch")
    return term, gradient


@_jit
def support_divergence(
    log_p,
    log_q,
    index,
    values,
    gradient_at,
    WIDTH: tl.constexpr,
    COUNT: tl.constexpr,
    PADDED: tl.constexpr,
    KIND: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, PADDED)
    entry = tl.load(index + row * COUNT + slot, mask=slot < COUNT, other=0)
    counts = (slot < WIDTH) & (entry >= 0)
    p = tl.load(log_p + row * WIDTH + slot, mask=counts, other=-1e30)
    q = tl.load(log_q + row * WIDTH + slot, mask=counts, other=-1e30)
    term, gradient = terms(p, q, KIND)
    term = tl.where(counts, term, 0.0)
    gradient = tl.where(counts, gradient, 0.0)
    value = tl.sum(term)
    tl.store(values + row, tl.where(value < 0.0, 0.0, value))
    tl.store(gradient_at + row * WIDTH + slot, gradient - tl.exp(q) * tl.sum(gradient), mask=slot < WIDTH)


@_jit
def tail_gradient(
    logits,
    stride,
    highest,
    logsumexp,
    gradient,
    gradient_stride,
    out,
    out_stride,
    vocab: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < vocab
    z = tl.load(logits + row * stride + column, mask=inside).to(tl.float32)
    scale = tl.load(gradient + row * gradient_stride + COUNT)
    z = tl.exp(z - tl.load(highest + row) - tl.load(logsumexp + row)) * scale
    tl.store(out + row * out_stride + column, z.to(out.dtype.element_ty), mask=inside)


@_jit
def write_support(
    index, gradient, gradient_stride, out, out_stride, COUNT: tl.constexpr, PADDED: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, PADDED)
    entry = tl.load(index + row * COUNT + slot, mask=slot < COUNT, other=-1)
    g = tl.load(gradient + row * gradient_stride + slot, mask=slot < COUNT, other=0.0)
    tl.store(out + row * out_stride + entry, g.to(out.dtype.element_ty), mask=entry >= 0)


@_jit
def log_probs(logits, row, stride, column, inside, highest, logsumexp):
    z = tl.load(logits + row * stride + column, mask=inside, other=float("-inf")).to(tl.float32)
    return finite(z - tl.load(highest + row) - tl.load(logsumexp + row))


@_jit
def whole_sums(
    student,
    stride,
    teacher,
    teacher_stride,
    highest,
    logsumexp,
    teacher_highest,
    teacher_logsumexp,
    values,
    totals,
    vocab: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    value = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocab, BLOCK):
        column = start + lane
        inside = column < vocab
        log_q = log_probs(student, row, stride, column, inside, highest, logsumexp)
        log_p = log_probs(teacher, row, teacher_stride, column, inside, teacher_highest, teacher_logsumexp)
        term, gradient = terms(log_p, log_q, KIND)
        value += tl.where(inside, term, 0.0)
        total += tl.where(inside, gradient, 0.0)
    value = tl.sum(value)
    tl.store(values + row, tl.where(value < 0.0, 0.0, value))
    tl.store(totals + row, tl.sum(total))


@_jit
def whole_gradient(
    student,
    stride,
    teacher,
    teacher_stride,
    highest,
    logsumexp,
    teacher_highest,
    teacher_logsumexp,
    totals,
    out,
    out_stride,
    vocab: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < vocab
    log_q = log_probs(student, row, stride, column, inside, highest, logsumexp)
    log_p = log_probs(teacher, row, teacher_stride, column, inside, teacher_highest, teacher_logsumexp)
    _, gradient = terms(log_p, log_q, KIND)
    gradient = gradient - tl.exp(log_q) * tl.load(totals + row)
    tl.store(out + row * out_stride + column, gradient.to(out.dtype.element_ty), mask=inside)
