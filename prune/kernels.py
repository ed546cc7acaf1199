"""Fused GPU kernels of the block loop, in Triton; each has a plain counterpart that says the same.

Importing this module needs Triton: ask `prune.fused.fused` first.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LONGEST_ROW = 65536
"""Columns of a row that one program ranks in its registers."""


# -- ranking


@triton.jit
def _lowest_rows(  # type: ignore[no-untyped-def]  # Triton reads annotations as code
    saliency, mask, columns, count, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(saliency + row * columns + column, mask=inside, other=float("inf"))
    value = value.to(tl.float32)
    bits = tl.where(value == 0, 0.0, value).to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the floats
    low = tl.full((), -2147483648, tl.int64)
    high = tl.full((), 2147483647, tl.int64)
    for _ in range(32):  # the least key with `count` keys up to it
        middle = (low + high) >> 1
        enough = tl.sum((key <= middle.to(tl.int32)).to(tl.int32), 0) >= count
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    last = low.to(tl.int32)
    below = (key < last).to(tl.int32)
    equal = (key == last).to(tl.int32)
    left = count - tl.sum(below, 0)
    taken = (below == 1) | ((equal == 1) & (tl.cumsum(equal, 0) <= left))
    tl.store(mask + row * columns + column, taken.to(tl.int8), mask=inside)


def lowest_rows(saliency: Tensor, count: int) -> Tensor:
    """Mark the `count` lowest of every row, lowest index on ties.

    Args:
        saliency: float32 [rows, columns], without NaN.
        count: 1 to columns.
    """
    saliency = saliency.contiguous()
    rows, columns = saliency.shape
    mask = torch.empty(rows, columns, dtype=torch.int8, device=saliency.device)
    block = triton.next_power_of_2(columns)
    warps = min(16, max(1, block // 512))
    _lowest_rows[(rows,)](saliency, mask, columns, count, BLOCK=block, num_warps=warps)
    return mask.view(torch.bool)


@triton.jit
def _lowest_of_each(  # type: ignore[no-untyped-def]
    saliency, mask, total, LOSE: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    place = at % M
    first = at - place
    value = tl.load(saliency + at, mask=inside, other=0.0)
    rank = tl.zeros((BLOCK,), tl.int32)
    for j in tl.static_range(M):
        other = tl.load(saliency + first + j, mask=inside, other=0.0)
        before = (other < value) | ((other == value) & (place > j))
        rank += before.to(tl.int32)
    tl.store(mask + at, (rank < LOSE).to(tl.int8), mask=inside)


def lowest_of_each(saliency: Tensor, lose: int, m: int) -> Tensor:
    """Mark the `lose` lowest of every `m` consecutive columns, lowest index on ties.

    Args:
        saliency: float32 [rows, columns], columns a multiple of `m`, without NaN.
        lose: how many.
        m: of how many.
    """
    saliency = saliency.contiguous()
    mask = torch.empty(saliency.shape, dtype=torch.int8, device=saliency.device)
    block = 1024
    _lowest_of_each[(triton.cdiv(saliency.numel(), block),)](
        saliency, mask, saliency.numel(), LOSE=lose, M=m, BLOCK=block
    )
    return mask.view(torch.bool)


# -- SparseGPT


@triton.jit
def _solve(  # type: ignore[no-untyped-def]
    weight,
    mask,
    errors,
    factor,
    counts,
    rows,
    weight_stride,
    mask_stride,
    factor_stride,
    COLUMNS: tl.constexpr,
    M: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < COLUMNS)[None, :]
    W = tl.load(weight + row[:, None] * weight_stride + column[None, :], mask=inside, other=0.0)
    diagonal = tl.load(factor + column * (factor_stride + 1), mask=column < COLUMNS, other=1.0)
    marks = mask + row[:, None] * mask_stride + column[None, :]
    gone = tl.zeros((ROWS, WIDTH), tl.int1)
    if M == 0:
        gone = tl.load(marks, mask=inside, other=0) != 0
    E = tl.zeros((ROWS, WIDTH), W.dtype)
    for j in range(0, COLUMNS):
        if M > 0:  # noqa: SIM102 - known when the kernel is compiled
            if j % M == 0:  # decide the next M columns, after all updates so far
                groups = COLUMNS // M
                lose = tl.load(counts + row * groups + j // M, mask=row < rows, other=0)
                score = W / diagonal[None, :]
                score = score * score
                rank = tl.zeros((ROWS, WIDTH), tl.int32)
                for i in tl.static_range(M):
                    other = tl.sum(tl.where((column == j + i)[None, :], score, 0.0), 1)[:, None]
                    before = (other < score) | ((other == score) & (column > j + i)[None, :])
                    rank += before.to(tl.int32)
                here = ((column >= j) & (column < j + M))[None, :]
                gone = gone | (here & (rank < lose[:, None]))
        this = (column == j)[None, :]
        pivot = tl.load(factor + j * (factor_stride + 1))
        error = tl.sum(tl.where(this & gone, W, 0.0), 1) / pivot
        later = tl.load(
            factor + j * factor_stride + column, mask=(column > j) & (column < COLUMNS), other=0.0
        )
        W -= error[:, None] * later[None, :]
        E = tl.where(this, error[:, None], E)
    W = tl.where(gone, 0.0, W)
    tl.store(weight + row[:, None] * weight_stride + column[None, :], W, mask=inside)
    tl.store(errors + row[:, None] * COLUMNS + column[None, :], E, mask=inside)
    if M > 0:
        tl.store(marks, gone.to(tl.int8), mask=inside)


def solve(W: Tensor, mask: Tensor, factor: Tensor, counts: Tensor | None, m: int) -> Tensor:
    """Prune a block of columns of all rows, each column compensating for those before it.

    Args:
        W: weights with all updates so far, [rows, B]; changed in place.
        mask: bool [rows, B]; read where `counts` is None, else filled in place.
        factor: the block's part of the factor of H^-1, [B, B], dtype of `W`.
        counts: how many each row loses of every `m` columns, int32 [rows, B / m].
        m: see `counts`; 0 without it.

    Returns:
        w / d of the pruned weights and 0 elsewhere, [rows, B].
    """
    rows, columns = W.shape
    errors = torch.empty(rows, columns, dtype=W.dtype, device=W.device)
    tile = 16
    _solve[(triton.cdiv(rows, tile),)](
        W,
        mask.view(torch.int8),
        errors,
        factor,
        errors if counts is None else counts,
        rows,
        W.stride(0),
        mask.stride(0),
        factor.stride(0),
        COLUMNS=columns,
        M=m,
        ROWS=tile,
        WIDTH=triton.next_power_of_2(columns),
        num_warps=4,
    )
    return errors


# -- parts of blocks


@triton.jit
def _rms_norm(  # type: ignore[no-untyped-def]
    x, weight, out, width, epsilon, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    stored = tl.load(x + row * width + column, mask=inside, other=0.0)
    value = stored.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / width + epsilon)
    normed = (value * scale).to(stored.dtype).to(tl.float32)
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (factor * normed).to(stored.dtype), mask=inside)


def root_mean_square_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon), rounded to x's dtype, times `weight`; [..., width]."""
    x = x.contiguous()
    out, width = torch.empty_like(x), x.shape[-1]
    block = triton.next_power_of_2(width)
    _rms_norm[(x.numel() // width,)](
        x, weight, out, width, epsilon, BLOCK=block, num_warps=min(16, max(1, block // 512))
    )
    return out


@triton.jit
def _silu_times(  # type: ignore[no-untyped-def]
    gate, up, out, width, gate_stride, up_stride, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    stored = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0)
    value = stored.to(tl.float32)
    active = (value / (1 + tl.exp(-value))).to(stored.dtype).to(tl.float32)
    times = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (active * times).to(stored.dtype), mask=inside)


def silu_times(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate), rounded to its dtype, times `up`; [..., width], rows evenly spaced in memory."""
    width, rows = gate.shape[-1], gate.numel() // gate.shape[-1]
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    gate, up = gate.reshape(rows, width), up.reshape(rows, width)
    block = 2048
    _silu_times[(rows, triton.cdiv(width, block))](
        gate, up, out, width, gate.stride(0), up.stride(0), BLOCK=block, num_warps=8
    )
    return out


@triton.jit
def _rotate(  # type: ignore[no-untyped-def]
    x,
    cos,
    sin,
    out,
    tokens,
    heads,
    half,
    x_window,
    x_head,
    x_token,
    c_window,
    c_head,
    c_token,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    window = (tl.program_id(0) // tokens).to(tl.int64)
    token = (tl.program_id(0) % tokens).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    channel = tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (channel < half)
    at = window * x_window + token * x_token + head * x_head + channel
    turn = window * c_window + token * c_token + head * c_head + channel
    stored = tl.load(x + at, mask=inside, other=0.0)
    first = stored.to(tl.float32)
    second = tl.load(x + at + half, mask=inside, other=0.0).to(tl.float32)
    for part in tl.static_range(2):
        c = tl.load(cos + turn + part * half, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + turn + part * half, mask=inside, other=0.0).to(tl.float32)
        straight = first * c if part == 0 else second * c
        crossed = -second * s if part == 0 else first * s
        straight = straight.to(stored.dtype).to(tl.float32)
        crossed = crossed.to(stored.dtype).to(tl.float32)
        tl.store(out + at + part * half, (straight + crossed).to(stored.dtype), mask=inside)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x * cos + (-second half, first half) * sin, each product rounded to x's dtype.

    Args:
        x: [windows, heads, tokens, channels], channels next to each other in memory.
        cos: broadcasts to the shape of `x`.
        sin: the same.
    """
    windows, heads, tokens, channels = x.shape
    cos, sin = cos.contiguous().expand(x.shape), sin.contiguous().expand(x.shape)
    out = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
    _rotate[(windows * tokens,)](
        x,
        cos,
        sin,
        out,
        tokens,
        heads,
        channels // 2,
        *x.stride()[:3],
        *cos.stride()[:3],
        HEADS=triton.next_power_of_2(heads),
        HALF=triton.next_power_of_2(channels // 2),
        num_warps=4,
        enable_fp_fusion=False,  # else the two products and their sum are rounded once
    )
    return out
