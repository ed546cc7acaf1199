"""Parts of decoder blocks: norm, gated activation, rotation."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _squares(x, out, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < size, other=0.0).to(tl.float32)
    tl.store(out + at, value * value, mask=at < size)


@triton.jit
def _scaled(  # type: ignore[no-untyped-def]
    x, scale, weight, out, width, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    stored = tl.load(x + row * width + column, mask=inside, other=0.0)
    normed = (stored.to(tl.float32) * tl.load(scale + row)).to(stored.dtype).to(tl.float32)
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (factor * normed).to(stored.dtype), mask=inside)


def root_mean_square_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon), rounded to x's dtype, times `weight`; [..., width].

    The mean is torch's own: the order in which it adds is not ours to know.
    """
    x = x.contiguous()
    out, width = torch.empty_like(x), x.shape[-1]
    squares = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    _squares[(triton.cdiv(x.numel(), 4096),)](x, squares, x.numel(), BLOCK=4096, num_warps=8)
    scale = torch.rsqrt(squares.mean(-1) + epsilon)
    block = triton.next_power_of_2(width)
    _scaled[(scale.numel(),)](
        x, scale, weight, out, width, BLOCK=block, num_warps=min(16, max(1, block // 512))
    )
    return out


@triton.jit
def _exp(x):  # type: ignore[no-untyped-def]
    if INTERPRETED:
        return tl.exp(x)
    return libdevice.exp(x)  # that of CUDA's own library, as torch takes it


@triton.jit
def _silu_times(  # type: ignore[no-untyped-def]
    gate, up, out, width, gate_stride, up_stride, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    stored = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0)
    value = stored.to(tl.float32)
    active = tl.div_rn(value, 1 + _exp(-value)).to(stored.dtype).to(tl.float32)
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
